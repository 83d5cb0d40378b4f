//! `neva-run render RECIPE`: prints or writes what an executor would start.

use std::{fmt::Write as _, path::PathBuf};

use clap::{Args, ValueHint};
use neva_executors::{Payload, Submission};
use serde_json::json;

use super::{
    Globals, OutputArgs, RecipeInput,
    dry_run::DryRun,
    export::{create_folder, write_file},
    input::ExecutorArgs,
    report::Report,
};
use crate::error::RunError;

/// File of the processes, one per line.
const COMMANDS_FILE: &str = "commands.sh";
/// File of the manifests.
const MANIFESTS_FILE: &str = "manifests.yaml";
/// File of the whole submission, for programs.
const SUBMISSION_FILE: &str = "submission.json";

const EXAMPLES: &str = "\
Examples:
  neva-run render recipes/llava15_7b.yaml                     print the commands
  neva-run render recipes/llava15_7b.yaml --out rendered      write plan, submission and commands
  neva-run render mine.yaml --executor slurm                  print the script for sbatch
  neva-run render mine.yaml --executor k8s.yaml               print objects for kubectl apply -f -
  neva-run render mine.yaml --executor sites/a.yaml --out rendered --yes";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct RenderArgs {
    #[command(flatten)]
    input: RecipeInput,
    #[command(flatten)]
    executor: ExecutorArgs,
    /// Folder to write to, created if missing; by default the commands or the script are printed
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    out: Option<PathBuf>,
    /// Overwrite existing files
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

pub(super) fn render(args: &RenderArgs, globals: &Globals, report: &mut Report) -> Result<(), RunError> {
    let (workspace, resolved, selected) = globals.prepare(&args.input, args.input.load()?, &args.executor, report)?;
    let DryRun { submission, run_hash, .. } = DryRun::new(&resolved, Some(&selected), workspace.as_ref())?;
    let (file, payload) = payload(&selected.name, &submission)?;
    let Some(out) = &args.out else {
        let mut value = json!(submission);
        value["run_hash"] = json!(run_hash);
        report.result(payload.trim_end(), &value);
        return Ok(());
    };

    let whole = serde_json::to_string_pretty(&submission).map_err(neva_executors::ExecutorError::from)? + "\n";
    let own = file
        .map(|file| (file.into(), payload))
        .into_iter()
        .chain([(SUBMISSION_FILE.into(), whole)]);
    let mut written = Vec::new();
    for (name, text) in own.chain(submission.files) {
        let path = out.join(name);
        path.parent().map_or(Ok(()), create_folder)?;
        write_file(&path, &text, args.yes)?;
        written.push(path);
    }
    let lines: Vec<_> = written.iter().map(|path| format!("wrote {}", path.display())).collect();
    report.result(lines.join("\n"), &json!({ "written": written }));
    Ok(())
}

/// Returns what would be started as text for a shell, a batch system or an API server, and the name of its file unless
/// the submission contains that file already.
fn payload(executor: &str, submission: &Submission) -> Result<(Option<&'static str>, String), RunError> {
    match &submission.payload {
        Payload::Processes(processes) => {
            let mut text = format!(
                "# Commands that the executor `{executor}` would start in {}, one process per line.\n",
                submission.dir.display()
            );
            for process in &processes.processes {
                let _ = writeln!(text, "{process}");
            }
            Ok((Some(COMMANDS_FILE), text))
        }
        Payload::BatchScript(script) => Ok((None, submission.files.get(&script.batch_script).cloned().unwrap_or_default())),
        Payload::Manifests(manifests) => Ok((Some(MANIFESTS_FILE), manifests.yaml()?)),
    }
}
