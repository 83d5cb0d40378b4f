//! Errors of an experiment and its store.

use std::{io, path::PathBuf};

use neva_schemas::{ExitClass, exit_class};

use crate::experiment_report::ExperimentReport;

/// Error of an experiment that did not start, did not succeed, or cannot be queried.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExperimentError {
    /// A task failed or was cancelled.
    #[error("{}", ended(.0))]
    Failed(Box<ExperimentReport>),
    /// The folder for experiments has a path that is not UTF-8, so records cannot hold it.
    #[error("{variable} names a folder whose path is not UTF-8: {}", path.display())]
    HomeNotText {
        /// The variable.
        variable: &'static str,
        /// The folder.
        path: PathBuf,
    },
    /// No variable names the folder for experiments.
    #[error("neither NEVA_RUN_HOME nor HOME is set, so there is no folder for experiments")]
    NoHome,
    /// No experiment has this id or name.
    #[error("there is no experiment `{requested}` in {}", home.display())]
    Unknown {
        /// The requested id or name.
        requested: String,
        /// The folder of all experiments.
        home: PathBuf,
        /// The most similar name, if any is similar.
        nearest: Option<String>,
    },
    /// The experiment has no such task.
    #[error("the experiment {id} has no task `{task}`")]
    UnknownTask {
        /// The experiment.
        id: String,
        /// The requested task.
        task: String,
        /// Its tasks.
        tasks: Vec<String>,
    },
    /// A launcher is running the experiment.
    #[error("the experiment {id} is running")]
    Running {
        /// The experiment.
        id: String,
    },
    /// A task outlives the launcher.
    #[error("the task `{task}` of the experiment {id} is still running: {what}")]
    TaskRunning {
        /// The experiment.
        id: String,
        /// The task.
        task: String,
        /// Its processes, or its job.
        what: String,
    },
    /// The experiment is not running, so it cannot be cancelled.
    #[error("the experiment {id} is not running")]
    NotRunning {
        /// The experiment.
        id: String,
    },
    /// Every task has already succeeded.
    #[error("every task of the experiment {id} has already succeeded")]
    NothingLeft {
        /// The experiment.
        id: String,
    },
    /// A record of the store cannot be parsed.
    #[error("the record {} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// A record of the store has another format version.
    #[error("the record {} has format {found}, but this program reads format {expected}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The format that this program reads.
        expected: u32,
    },
    /// Experiments are nested too deeply.
    #[error("this experiment would be {depth} levels deep: its tasks start experiments, which start experiments")]
    TooDeep {
        /// Levels.
        depth: u32,
    },
    /// A script's text cannot be used.
    #[error("the script {} {reason}", path.display())]
    ScriptText {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// A file or folder of the store cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// The failed action: `read`, `write`, `create`, `lock`, `remove`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The executor of a task panicked.
    #[error("the executor panicked")]
    Executor,
    /// The action needs a confirmation, and standard input is not a terminal.
    #[error("{question} needs a confirmation, and there is no terminal to ask on")]
    NotConfirmed {
        /// The action to confirm.
        question: String,
    },
    /// The user declined the action.
    #[error("nothing was done")]
    Declined,
}

impl ExperimentError {
    /// Returns the exit code of this error.
    pub fn exit_code(&self) -> ExitClass {
        match self {
            Self::Failed(report) => report.exit_code(),
            Self::Damaged { .. } | Self::Format { .. } | Self::NoHome | Self::File { .. } => exit_class::CLUSTER,
            Self::Executor => exit_class::BUG,
            _ => exit_class::INPUT,
        }
    }

    /// Returns what to type or do instead, if known.
    pub fn help(&self) -> Option<String> {
        Some(match self {
            Self::Failed(report) => match report.first_failure() {
                Some((task, _)) => format!(
                    "`neva-run experiment logs {} {}` shows its output, `neva-run experiment resume {}` resumes it",
                    report.id, task.name, report.id
                ),
                None => format!("`neva-run experiment resume {}` resumes it", report.id),
            },
            Self::HomeNotText { .. } => "set NEVA_RUN_HOME to a folder whose path is UTF-8".to_owned(),
            Self::NoHome => "set NEVA_RUN_HOME to a folder that you may write to".to_owned(),
            Self::Unknown {
                nearest: Some(nearest), ..
            } => format!("did you mean `{nearest}`? `neva-run experiment list` shows all"),
            Self::Unknown { .. } => "`neva-run experiment list` shows all".to_owned(),
            Self::UnknownTask { tasks, .. } => format!("write one of {}", tasks.join(", ")),
            Self::TaskRunning { id, .. } => {
                format!("`neva-run experiment cancel {id}` ends it, `neva-run experiment resume {id}` runs it again")
            }
            Self::Running { id } => format!("`neva-run experiment cancel {id}` ends it"),
            Self::NotRunning { id } | Self::NothingLeft { id } => format!("`neva-run experiment status {id}` shows its state"),
            Self::Damaged { path, .. } => match path.parent().and_then(|dir| dir.file_name()) {
                Some(id) => format!(
                    "restore the file from a copy, or `neva-run experiment remove {}`",
                    id.to_string_lossy()
                ),
                None => "restore the file from a copy".to_owned(),
            },
            Self::Format { .. } => "use the version of neva-run that wrote it".to_owned(),
            Self::TooDeep { .. } => "put the tasks of the inner experiment into this one".to_owned(),
            Self::ScriptText { .. } => "a script is UTF-8 text of at most 1 MiB: write a short one that calls the program".to_owned(),
            Self::File { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                "free disk space, or set NEVA_RUN_HOME to a folder on another disk".to_owned()
            }
            Self::File { action, source, .. } if *action != "read" && cannot_write(source.kind()) => {
                "set NEVA_RUN_HOME to a folder that you may write to".to_owned()
            }
            Self::File { .. } | Self::Executor => return None,
            Self::NotConfirmed { .. } => "add `--yes`".to_owned(),
            Self::Declined => return None,
        })
    }
}

fn cannot_write(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{NotADirectory, PermissionDenied, ReadOnlyFilesystem};
    matches!(kind, PermissionDenied | ReadOnlyFilesystem | NotADirectory)
}

fn ended(report: &ExperimentReport) -> String {
    match report.first_failure() {
        Some((task, failure)) => format!("the task `{}` failed: {failure}", task.name),
        None => format!("the experiment {} was cancelled", report.id),
    }
}
