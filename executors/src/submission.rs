//! What an executor would do, as a value.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use neva_schemas::ScriptPlan;
use serde::Serialize;

use crate::error::ExecutorError;

/// Files to write and processes to start. Printing it is a dry run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Submission {
    /// Folder of the job.
    pub dir: PathBuf,
    /// Files under `dir`, by relative path, with their text.
    pub files: BTreeMap<PathBuf, String>,
    /// What is started, in the order of the ranks.
    pub processes: Vec<Process>,
    /// What the processes are to each other.
    pub kind: JobKind,
    /// How long the others have to end, in seconds, once one has ended with success; `None`: as long as they like.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience_s: Option<u64>,
}

/// What the processes of a job are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum JobKind {
    /// Ranks, which meet and keep the contract on exit codes and records of failures.
    #[default]
    Ranks,
    /// A program that knows of none of this: every exit code but 0 is a failure of the job.
    Script,
}

/// One process. It is shown as a line that a shell would take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Environment in addition to the inherited one.
    pub env: BTreeMap<String, String>,
    /// Folder to start in, where that matters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_directory: Option<PathBuf>,
    /// File under the job's folder that takes both output streams.
    pub log: PathBuf,
}

/// The command line of a rank: `PROGRAM train --plan PLAN`.
///
/// # Errors
/// A path that is not UTF-8.
pub fn train_argv(program: &Path, plan: &Path) -> Result<Vec<String>, ExecutorError> {
    Ok(vec![path_text(program)?, "train".into(), "--plan".into(), path_text(plan)?])
}

/// The command line of a script whose text lies in `file`: `ENTRYPOINT FILE ARGS`.
///
/// # Errors
/// A path that is not UTF-8.
pub fn script_argv(plan: &ScriptPlan, file: &Path) -> Result<Vec<String>, ExecutorError> {
    let mut argv = plan.entrypoint.clone();
    argv.push(path_text(file)?);
    argv.extend(plan.args.iter().cloned());
    Ok(argv)
}

fn path_text(path: &Path) -> Result<String, ExecutorError> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| ExecutorError::NotUtf8 { path: path.to_owned() })
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(folder) = &self.working_directory {
            write!(f, "cd {} && ", quoted(&folder.to_string_lossy()))?;
        }
        for (name, value) in &self.env {
            write!(f, "{name}={} ", quoted(value))?;
        }
        let words: Vec<_> = self.argv.iter().map(|word| quoted(word)).collect();
        f.write_str(&words.join(" "))
    }
}

/// `word` as a shell reads it back.
fn quoted(word: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(safe) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
