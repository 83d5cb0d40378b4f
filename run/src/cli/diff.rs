//! `neva-run diff A B`: differences of two resolved recipes.

use clap::{Args, ValueHint};
use serde_json::json;

use super::{Globals, OutputArgs, input, report::Report};
use crate::{
    config::{self, Side},
    error::RunError,
};

const EXAMPLES: &str = "\
Examples:
  neva-run diff llava15_7b mine.yaml                              show what your recipe changes
  neva-run diff mine.yaml mine.yaml --set-b peft_scheme=none      show what one override changes
  neva-run diff old.yaml new.yaml --set num_nodes=2 --exit-code   exit code 1, as in git";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DiffArgs {
    /// Recipe file, the name of a recipe, or the folder of a run or a checkpoint
    #[arg(value_name = "A", value_hint = ValueHint::FilePath)]
    left: String,
    /// Recipe to compare it with
    #[arg(value_name = "B", value_hint = ValueHint::FilePath)]
    right: String,
    /// Override a value in both
    #[arg(long = "set", value_name = "PATH=VALUE", allow_hyphen_values = true)]
    sets: Vec<String>,
    /// Override a value in A, after `--set`
    #[arg(long = "set-a", value_name = "PATH=VALUE", allow_hyphen_values = true)]
    sets_left: Vec<String>,
    /// Override a value in B, after `--set`
    #[arg(long = "set-b", value_name = "PATH=VALUE", allow_hyphen_values = true)]
    sets_right: Vec<String>,
    /// Exit with code 1 if the recipes differ
    #[arg(long)]
    exit_code: bool,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

pub(super) fn diff(args: &DiffArgs, globals: &Globals, report: &mut Report) -> Result<(), RunError> {
    let workspace = globals.workspace()?;
    let mut side = |recipe: &str, own: &[String]| {
        let sets: Vec<_> = args.sets.iter().chain(own).map(String::as_str).collect();
        let resolved = input::resolve(recipe, &sets, workspace.as_ref())?;
        report.warnings(&resolved.warnings);
        Ok::<_, RunError>(resolved.traced()?)
    };
    let (left, right) = (side(&args.left, &args.sets_left)?, side(&args.right, &args.sets_right)?);
    let differences = config::diff(&left, &right);

    let side = |side: &Option<Side>| {
        side.as_ref()
            .map(|side| json!({ "value": side.value, "at": side.origin.to_string() }))
    };
    let values: Vec<_> = differences
        .iter()
        .map(|it| json!({ "path": it.path.to_string(), "a": side(&it.left), "b": side(&it.right) }))
        .collect();
    let lines: Vec<_> = differences.iter().map(ToString::to_string).collect();
    report.result_lines(&lines, &values);
    match differences.len() {
        count @ 1.. if args.exit_code => Err(RunError::Differ { count }),
        _ => Ok(()),
    }
}
