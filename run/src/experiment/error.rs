//! What can be wrong with an experiment and its store.

use std::{io, path::PathBuf};

use neva_schemas::{ExitClass, exit_class};

use super::report::ExperimentReport;

/// Why an experiment was not started, did not end well, or cannot be asked after.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExperimentError {
    /// A task failed or was cancelled.
    #[error("{}", ended(.0))]
    Failed(Box<ExperimentReport>),
    /// Nothing says where experiments are kept.
    #[error("neither NEVA_RUN_HOME nor HOME is set, so there is no folder for experiments")]
    NoHome,
    /// No experiment has this id or name.
    #[error("there is no experiment `{asked}` in {}", home.display())]
    Unknown {
        /// What was asked for.
        asked: String,
        /// Where experiments are kept.
        home: PathBuf,
        /// The name that is nearest, where one is near.
        nearest: Option<String>,
    },
    /// The experiment has no such task.
    #[error("the experiment {id} has no task `{task}`")]
    UnknownTask {
        /// The experiment.
        id: String,
        /// What was asked for.
        task: String,
        /// Its tasks.
        tasks: Vec<String>,
    },
    /// A launcher has the experiment.
    #[error("the experiment {id} is running")]
    Running {
        /// The experiment.
        id: String,
    },
    /// Nothing runs that could be ended.
    #[error("nothing of the experiment {id} runs")]
    NotRunning {
        /// The experiment.
        id: String,
    },
    /// Every task ended well already.
    #[error("every task of the experiment {id} ended well already")]
    NothingLeft {
        /// The experiment.
        id: String,
    },
    /// A record of the store cannot be understood.
    #[error("the record {} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A record of the store is of another version.
    #[error("the record {} has format {found}, this program reads {expected}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// Ours.
        expected: u32,
    },
    /// Experiments start each other.
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
        /// Why.
        reason: String,
    },
    /// A file or folder of the store cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried: `read`, `write`, `create`, `lock`, `remove`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The executor of a task panicked.
    #[error("the executor panicked")]
    Executor,
    /// Somebody has to agree, and nobody is there to ask.
    #[error("{question} needs a yes, and nobody is there to ask")]
    Unasked {
        /// What would be done.
        question: String,
    },
    /// Somebody was asked, and did not agree.
    #[error("nothing was done")]
    Declined,
}

impl ExperimentError {
    /// The exit code that stands for this error.
    pub fn class(&self) -> ExitClass {
        match self {
            Self::Failed(report) => report.class(),
            Self::Damaged { .. } | Self::Format { .. } | Self::NoHome | Self::File { .. } => exit_class::CLUSTER,
            Self::Executor => exit_class::BUG,
            _ => exit_class::INPUT,
        }
    }

    /// What to type or do instead, where that can be said.
    pub fn help(&self) -> Option<String> {
        Some(match self {
            Self::Failed(report) => match report.first_failure() {
                Some((task, _)) => format!(
                    "`neva-run experiment logs {} {}` shows its output, `neva-run experiment resume {}` goes on",
                    report.id, task.name, report.id
                ),
                None => format!("`neva-run experiment resume {}` goes on", report.id),
            },
            Self::NoHome => "set NEVA_RUN_HOME to a folder that you may write to".to_owned(),
            Self::Unknown {
                nearest: Some(nearest), ..
            } => format!("did you mean `{nearest}`? `neva-run experiment list` shows all"),
            Self::Unknown { .. } => "`neva-run experiment list` shows all".to_owned(),
            Self::UnknownTask { tasks, .. } => format!("write one of {}", tasks.join(", ")),
            Self::Running { id } => format!("`neva-run experiment cancel {id}` ends it"),
            Self::NotRunning { id } | Self::NothingLeft { id } => format!("`neva-run experiment status {id}` tells what became of it"),
            Self::Damaged { path, .. } => match path.parent().and_then(|dir| dir.file_name()) {
                Some(id) => format!(
                    "put the file back from a copy, or `neva-run experiment remove {}`",
                    id.to_string_lossy()
                ),
                None => "put the file back from a copy".to_owned(),
            },
            Self::Format { .. } => "use the version of neva-run that wrote it".to_owned(),
            Self::TooDeep { .. } => "let a task run what the inner experiment would".to_owned(),
            Self::ScriptText { .. } => "a script is a text in UTF-8 of at most 1 MiB: let a short one call the program".to_owned(),
            Self::File { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                "make room, or name a folder on another disk in NEVA_RUN_HOME".to_owned()
            }
            Self::File { action, source, .. } if *action != "read" && cannot_write(source.kind()) => {
                "name a folder that you may write to in NEVA_RUN_HOME".to_owned()
            }
            Self::File { .. } | Self::Executor => return None,
            Self::Unasked { .. } => "add `--yes`".to_owned(),
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
