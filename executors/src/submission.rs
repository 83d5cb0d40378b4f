//! What an executor would do, as a value.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

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
}

/// One process. It is shown as a line that a shell would take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Environment in addition to the inherited one.
    pub env: BTreeMap<String, String>,
    /// File under the job's folder that takes both output streams.
    pub log: PathBuf,
}

/// The command line of a rank: `PROGRAM train --plan PLAN`.
///
/// # Errors
/// A path that is not UTF-8.
pub fn train_argv(program: &Path, plan: &Path) -> Result<Vec<String>, ExecutorError> {
    let text = |path: &Path| {
        path.to_str()
            .map(str::to_owned)
            .ok_or_else(|| ExecutorError::NotUtf8 { path: path.to_owned() })
    };
    Ok(vec![text(program)?, "train".into(), "--plan".into(), text(plan)?])
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
