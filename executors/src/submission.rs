//! Submissions: what an executor will do, as a value.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use neva_schemas::ScriptPlan;
use serde::Serialize;

use crate::error::ExecutorError;

/// Files to write and the payload to start. A dry run prints it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Submission {
    /// Folder of the job, as seen by the ranks.
    pub dir: PathBuf,
    /// Text of the files under `dir`, by relative path.
    pub files: BTreeMap<PathBuf, String>,
    /// Payload to start.
    #[serde(flatten)]
    pub payload: Payload,
    /// Kind of the job's processes.
    pub kind: JobKind,
}

impl Submission {
    /// Returns the processes that the launcher starts itself; none if a cluster starts them.
    pub fn processes(&self) -> &[Process] {
        match &self.payload {
            Payload::Processes(Processes { processes, .. }) => processes,
            Payload::BatchScript(_) | Payload::Manifests(_) => &[],
        }
    }

    /// Returns the text of the batch script, if a batch system starts the job.
    pub fn batch_text(&self) -> Option<&str> {
        match &self.payload {
            Payload::BatchScript(script) => self.files.get(&script.batch_script).map(String::as_str),
            Payload::Processes(_) | Payload::Manifests(_) => None,
        }
    }

    /// Returns the objects for an API server, if it starts the job.
    pub fn manifests(&self) -> Option<&Manifests> {
        match &self.payload {
            Payload::Manifests(manifests) => Some(manifests),
            Payload::Processes(_) | Payload::BatchScript(_) => None,
        }
    }

    /// Sets a variable of every process that the launcher starts itself.
    pub fn set_variable(&mut self, name: &str, value: &str) {
        if let Payload::Processes(Processes { processes, .. }) = &mut self.payload {
            for process in processes {
                process.env.insert(name.to_owned(), value.to_owned());
            }
        }
    }

    /// Returns the tasks of a job of several tasks.
    pub(crate) fn tasks(&self) -> &[BatchTask] {
        match &self.payload {
            Payload::BatchScript(batch) => &batch.tasks,
            Payload::Processes(_) | Payload::Manifests(_) => &[],
        }
    }

    /// Returns true if ranks are among its processes.
    pub(crate) fn has_ranks(&self) -> bool {
        self.kind == JobKind::Ranks || self.tasks().iter().any(|task| task.kind == JobKind::Ranks)
    }

    /// Returns [`Processes::exit_timeout_s`].
    pub(crate) fn exit_timeout_s(&self) -> Option<u64> {
        match &self.payload {
            Payload::Processes(processes) => processes.exit_timeout_s,
            Payload::BatchScript(_) | Payload::Manifests(_) => None,
        }
    }
}

/// Payload of a submission. It is written to files, but never read back.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Payload {
    /// Processes that the launcher starts itself.
    Processes(Processes),
    /// A script for a batch system.
    BatchScript(BatchScript),
    /// Objects for an API server.
    Manifests(Manifests),
}

/// Processes on the launcher's own machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Processes {
    /// One for each rank, in order.
    pub processes: Vec<Process>,
    /// Seconds that the other ranks have to exit after one succeeded; `None`: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_timeout_s: Option<u64>,
}

/// A script that a batch system starts on the nodes that it allocates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BatchScript {
    /// The script, one of [`Submission::files`].
    pub batch_script: PathBuf,
    /// Command line to submit it: `sbatch --parsable ...`.
    pub submit_argv: Vec<String>,
    /// The tasks, if the script runs several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<BatchTask>,
}

/// A task of a script that runs several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BatchTask {
    /// Its folder.
    pub dir: PathBuf,
    /// Kind of its processes.
    pub kind: JobKind,
    /// The number of its job: that of the script's job, followed by this.
    pub suffix: String,
}

/// Objects for an API server, in the order in which they are applied.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Manifests {
    /// The objects.
    pub manifests: Vec<serde_json::Value>,
}

impl Manifests {
    /// Returns the objects as YAML, for `kubectl apply`.
    ///
    /// # Errors
    /// An object holds a number that YAML cannot express.
    pub fn yaml(&self) -> Result<String, ExecutorError> {
        serde_saphyr::to_string_multiple(&self.manifests).map_err(|error| ExecutorError::Manifest { reason: error.to_string() })
    }
}

/// Kind of a job's processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum JobKind {
    /// Ranks, which follow the contract on rendezvous, exit codes and failure records.
    #[default]
    Ranks,
    /// Any other program: every exit code except 0 is a failure of the job.
    Script,
}

/// One process. It is displayed as a shell command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Additional environment.
    pub env: BTreeMap<String, String>,
    /// Working directory, if it matters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_directory: Option<PathBuf>,
    /// File under the job's folder for both output streams.
    pub log: PathBuf,
}

/// Returns the command line of a rank: `PROGRAM train --plan PLAN`.
///
/// # Errors
/// A path is not UTF-8.
pub fn train_argv(program: &Path, plan: &Path) -> Result<Vec<String>, ExecutorError> {
    Ok(vec![path_text(program)?, "train".into(), "--plan".into(), path_text(plan)?])
}

/// Returns the command line of a script with its text in `file`: `ENTRYPOINT FILE ARGS`.
///
/// # Errors
/// A path is not UTF-8.
pub fn script_argv(plan: &ScriptPlan, file: &Path) -> Result<Vec<String>, ExecutorError> {
    let mut argv = plan.entrypoint.clone();
    argv.push(path_text(file)?);
    argv.extend(plan.args.iter().cloned());
    Ok(argv)
}

/// Returns a path as text.
pub(crate) fn path_text(path: &Path) -> Result<String, ExecutorError> {
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

/// Quotes `word` for a shell.
pub(crate) fn quoted(word: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(safe) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
