//! `neva-run validate FILE...`: reports all problems of files before anything runs.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum, ValueHint};
use neva_schemas::Problem as Remark;
use serde_json::{Value as Json, json};

use super::{Globals, OutputArgs, report::Report};
use crate::{
    config::{self, FACTORY, Node, Problems, TARGET},
    error::RunError,
    executor,
    experiment::{is_experiment, resolve_experiment},
    resolve,
    workspace::{WORKSPACE_FILE, Workspace},
};

const EXAMPLES: &str = "\
Examples:
  neva-run validate recipes/*.yaml experiment.yaml
  neva-run validate neva.yaml executors/long.yaml
  neva-run validate odd.yaml --kind recipe --output json";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ValidateArgs {
    /// Files to check, or folders of runs and checkpoints; the kind follows from the content
    #[arg(value_name = "FILE", required = true, value_hint = ValueHint::FilePath)]
    files: Vec<PathBuf>,
    /// Kind of all files
    #[arg(long, value_name = "KIND")]
    kind: Option<Kind>,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// Kind of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// A recipe and its overrides
    Recipe,
    /// Tasks and their dependencies
    Experiment,
    /// An executor
    Executor,
    /// Shared settings of a team's runs
    Workspace,
}

pub(super) fn validate(args: &ValidateArgs, globals: &Globals, report: &mut Report) -> Result<(), RunError> {
    let workspace = globals.workspace();
    let mut errors = Vec::new();
    let (mut lines, mut values) = (Vec::new(), Vec::new());
    for file in &args.files {
        let (kind, checked) = match config::load(file) {
            Ok(node) => {
                let kind = args.kind.unwrap_or_else(|| Kind::detect(file, &node));
                let workspace = workspace.as_ref().ok().and_then(Option::as_ref);
                (Some(kind), kind.check(file, node, workspace))
            }
            Err(error) => (None, Err(error.into())),
        };
        let name = kind.and_then(|kind| Some(kind.to_possible_value()?.get_name().to_owned()));
        let (problems, warnings) = match checked {
            Ok(warnings) => {
                lines.push(format!("ok  {} ({})", file.display(), name.as_deref().unwrap_or_default()));
                report.warnings(&warnings);
                (Vec::new(), warnings)
            }
            Err(problems) => (problems.errors().to_vec(), Vec::new()),
        };
        let found: Vec<Json> = problems.iter().map(super::json::problem_json).collect();
        values.push(json!({ "file": file, "kind": name, "ok": found.is_empty(), "problems": found, "warnings": warnings }));
        errors.extend(problems);
    }
    report.result_lines(&lines, &values);
    Problems::check(errors).map_err(RunError::Files)
}

impl Kind {
    /// Returns the kind of `node`, read from `file`.
    fn detect(file: &Path, node: &Node) -> Self {
        let has = |key: &str| node.get(key).is_some();
        if is_experiment(node) {
            Self::Experiment
        } else if has(FACTORY) {
            Self::Recipe
        } else if has(TARGET) {
            Self::Executor
        } else if file.file_name().is_some_and(|name| name == WORKSPACE_FILE) || has("executors") || has("defaults") {
            Self::Workspace
        } else {
            Self::Recipe
        }
    }

    /// Returns the warnings of a valid file, or all its problems.
    fn check(self, file: &Path, node: Node, workspace: Option<&Workspace>) -> Result<Vec<Remark>, Problems> {
        match self {
            Self::Recipe => {
                let node = match workspace {
                    Some(workspace) => workspace.merge_under(node),
                    None => node,
                };
                resolve::resolve(node, &[""; 0]).map(|resolved| resolved.warnings)
            }
            Self::Experiment => resolve_experiment(node, &[""; 0], workspace).map(|resolved| resolved.warnings),
            Self::Executor => executor::with_overrides(&file.display().to_string(), node, &[]).map(|selected| selected.warnings),
            Self::Workspace => Workspace::from_tree(file, node).map(|_| Vec::new()),
        }
    }
}
