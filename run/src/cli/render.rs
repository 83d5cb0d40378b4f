//! `neva-run render RECIPE`: what an executor would be given, as files.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use serde_json::json;

use super::{
    Globals, OutputArgs, RecipeInput,
    dry_run::DryRun,
    export::{create_folder, write_file},
    input::ExecutorArgs,
    report::Report,
};
use crate::error::RunError;

/// File of the processes, one a line.
const COMMANDS_FILE: &str = "commands.sh";
/// File that holds the whole submission, for programs.
const SUBMISSION_FILE: &str = "submission.json";

const EXAMPLES: &str = "\
Examples:
  neva-run render recipes/llava15_7b.yaml --out rendered      plan, submission, commands
  neva-run render mine.yaml --executor patient --out rendered --yes";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct RenderArgs {
    #[command(flatten)]
    input: RecipeInput,
    #[command(flatten)]
    executor: ExecutorArgs,
    /// Folder to write to; it is created where it is absent
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    out: PathBuf,
    /// Overwrite files that exist
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

pub(super) fn render(args: &RenderArgs, globals: &Globals, report: &mut Report) -> Result<(), RunError> {
    let (workspace, resolved, chosen) = globals.prepare(&args.input, &args.executor, report)?;
    let DryRun { submission, .. } = DryRun::of(&resolved, Some(&chosen), workspace.as_ref())?;

    let whole = serde_json::to_string_pretty(&submission).map_err(neva_executors::ExecutorError::from)? + "\n";
    let mut commands = format!(
        "# What the executor `{}` would start in {}, a line for each process.\n",
        chosen.name,
        submission.dir.display()
    );
    commands.extend(submission.processes.iter().map(|process| format!("{process}\n")));

    let own = [(COMMANDS_FILE.into(), commands), (SUBMISSION_FILE.into(), whole)];
    let mut written = Vec::new();
    for (name, text) in own.into_iter().chain(submission.files) {
        let path = args.out.join(name);
        path.parent().map_or(Ok(()), create_folder)?;
        write_file(&path, &text, args.yes)?;
        written.push(path);
    }
    let lines: Vec<_> = written.iter().map(|path| format!("wrote {}", path.display())).collect();
    report.result(lines.join("\n"), &json!({ "written": written }));
    Ok(())
}
