//! Errors of the engine, and their exit codes.

use crate::comm_error::{CommError, IN_GROUP};
use neva_data::DataError;
use neva_schemas::{ExitClass, Problem, exit_class};
use neva_track::TrackError;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Result of the engine.
pub type Result<T, E = EngineError> = std::result::Result<T, E>;

/// Any failure of the engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The run's configuration is invalid.
    #[error("{}", problems(.0))]
    Run(Vec<Problem>),
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The attempted operation.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A file has invalid content.
    #[error("{}: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// The fault of the content.
        reason: String,
    },
    /// Tensors of a file do not fit the model. All of them are listed.
    #[error("{}: {}", path.display(), listing(problems))]
    Weights {
        /// The file or folder.
        path: PathBuf,
        /// Each missing, unknown or misshapen tensor.
        problems: Vec<String>,
    },
    /// An export is not what its reader would load. Everything is listed.
    #[error("{reader} would not load the run from {}: {}", path.display(), listing(problems))]
    Export {
        /// The folder.
        path: PathBuf,
        /// The program that reads it.
        reader: &'static str,
        /// Each tensor or setting that is wrong.
        problems: Vec<String>,
    },
    /// A dataset is invalid.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A record of the run could not be written.
    #[error(transparent)]
    Track(#[from] TrackError),
    /// Communication between ranks failed.
    #[error(transparent)]
    Comm(#[from] CommError),
    /// libtorch refused an operation.
    #[error("libtorch: {0}")]
    Torch(String),
    /// The loss or a gradient is not finite.
    #[error("step {step}: {what} is {value}")]
    NotFinite {
        /// Optimizer step, from 0.
        step: u64,
        /// The quantity.
        what: &'static str,
        /// Its value.
        value: f64,
    },
    /// The run does not do what the recipe requires of it.
    #[error("the run does not do what `require` names: {}", missing.join("; "))]
    Unmet {
        /// Optimizer step, from 0.
        step: u64,
        /// Each requirement that is not met, and why.
        missing: Vec<String>,
    },
    /// This machine cannot execute the run.
    #[error("{0}")]
    Machine(String),
    /// The first rank failed, and notified the others.
    #[error("the first rank failed: {message}")]
    First {
        /// Its exit code.
        class: ExitClass,
        /// Error of that rank.
        message: String,
    },
    /// Another rank failed, and notified all.
    #[error("rank {rank} failed: {message}")]
    Peer {
        /// Its number.
        rank: usize,
        /// Its exit code.
        class: ExitClass,
        /// Error of that rank.
        message: String,
    },
    /// The run failed after its progress was saved.
    #[error("{error}")]
    Saved {
        /// The reason.
        error: Box<Self>,
        /// The checkpoint.
        checkpoint: PathBuf,
        /// Completed optimizer steps.
        steps: u64,
    },
    /// A bug of this program.
    #[error("bug: {0}")]
    Bug(String),
}

/// Operation that looks for the folder of a checkpoint.
pub(crate) const OPEN_CHECKPOINT: &str = "open checkpoint";
/// Operations that change the run's own files.
const CHANGES: &[&str] = &["create", "write", "remove", "replace"];

/// Returns the exit code of an error of the data: they are wrong, unless a disk failed, or a thread.
fn data_exit_code(error: &DataError) -> ExitClass {
    const OF_INPUT: [ErrorKind; 4] = [
        ErrorKind::NotFound,
        ErrorKind::PermissionDenied,
        ErrorKind::IsADirectory,
        ErrorKind::InvalidData,
    ];
    match error {
        DataError::Sample { error, .. } => data_exit_code(error),
        DataError::WorkerPanicked { .. } => exit_class::BUG,
        DataError::Thread(_) => exit_class::CLUSTER,
        DataError::Read { error, .. } if !OF_INPUT.contains(&error.kind()) => exit_class::JOB,
        _ => exit_class::INPUT,
    }
}

impl EngineError {
    /// Returns the exit code of the failure.
    pub fn exit_code(&self) -> ExitClass {
        match self {
            Self::Run(_) | Self::Content { .. } | Self::Weights { .. } | Self::Export { .. } => exit_class::INPUT,
            Self::Data(error) => data_exit_code(error),
            Self::Comm(CommError::HandshakeMismatch(_)) => exit_class::INPUT,
            // The user named the file to read.
            Self::Io { action, source, .. } if !CHANGES.contains(action) && source.kind() == ErrorKind::NotFound => exit_class::INPUT,
            Self::Machine(_) | Self::Comm(CommError::Rendezvous { .. } | CommError::Unavailable(_)) => exit_class::CLUSTER,
            Self::Bug(_) | Self::Comm(CommError::Bug(_)) => exit_class::BUG,
            Self::First { class, .. } | Self::Peer { class, .. } => *class,
            Self::Saved { error, .. } => error.exit_code(),
            _ if self.lacks_space().is_some() => exit_class::CLUSTER,
            Self::Io { .. } | Self::Track(_) | Self::Comm(_) | Self::Torch(_) | Self::NotFinite { .. } | Self::Unmet { .. } => {
                exit_class::JOB
            }
        }
    }

    /// Returns whether another rank is the root cause: it reported a failure, ended, or did not answer.
    pub fn is_peer_failure(&self) -> bool {
        match self {
            Self::First { .. } | Self::Peer { .. } => true,
            Self::Saved { error, .. } => error.is_peer_failure(),
            Self::Comm(error) => error.is_peer_failure(),
            // Errors of a backward pass arrive as text.
            Self::Torch(text) => text.contains(IN_GROUP),
            _ => false,
        }
    }

    /// Returns what to type or do, if known.
    pub fn help(&self) -> Option<String> {
        if let Self::Saved { checkpoint, steps, .. } = self {
            let steps = if *steps == 1 {
                "step before it is".to_owned()
            } else {
                format!("{steps} steps before it are")
            };
            return Some(format!(
                "the {steps} saved in {}: repair the data, then resume with `--set finetune.resume.resume_if_exists=true`",
                checkpoint.display()
            ));
        }
        if matches!(
            self,
            Self::Io {
                action: OPEN_CHECKPOINT,
                ..
            }
        ) {
            return Some("name the folder of a checkpoint, of a run, or of a model with config.json".to_owned());
        }
        let (path, kind) = self.lacks_space()?;
        let folder = path.parent().unwrap_or(path).display();
        Some(match kind {
            ErrorKind::FileTooLarge => "raise the limit on the size of a file with `ulimit -f unlimited`".to_owned(),
            ErrorKind::QuotaExceeded => format!("your quota on the disk of {folder} is used up: remove files, or write to another disk"),
            _ => format!("make room on the disk of {folder}, or write to another disk"),
        })
    }

    /// Returns the file that could not be written for lack of space, and the kind of limit.
    fn lacks_space(&self) -> Option<(&Path, ErrorKind)> {
        let (path, source) = match self {
            Self::Io { action, path, source } if CHANGES.contains(action) => (path, source),
            Self::Track(TrackError::Io { path, source, .. }) => (path, source),
            _ => return None,
        };
        let limits = [ErrorKind::StorageFull, ErrorKind::QuotaExceeded, ErrorKind::FileTooLarge];
        limits.contains(&source.kind()).then_some((path, source.kind()))
    }

    /// Creates an [`Self::Io`] for `map_err`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

impl From<neva_torch_ffi::Error> for EngineError {
    fn from(error: neva_torch_ffi::Error) -> Self {
        use neva_torch_ffi::Error;
        match error {
            Error::Panic(text) => Self::Bug(text),
            Error::Argument(text) => Self::Bug(text),
            other => Self::Torch(other.to_string()),
        }
    }
}

impl From<neva_weights::WeightsError> for EngineError {
    fn from(error: neva_weights::WeightsError) -> Self {
        use neva_weights::WeightsError;
        match error {
            WeightsError::Io { action, path, source } => Self::Io { action, path, source },
            WeightsError::Content { path, reason, .. } => Self::Content { path, reason },
            other => Self::Bug(other.to_string()),
        }
    }
}

impl From<tch::TchError> for EngineError {
    fn from(error: tch::TchError) -> Self {
        // The C++ stack trace after the first line does not help a user.
        Self::Torch(error.to_string().lines().next().unwrap_or_default().to_owned())
    }
}

/// Formats one problem as a line, several as a list.
fn problems(problems: &[Problem]) -> String {
    match problems {
        [problem] => problem.to_string(),
        several => several.iter().map(|problem| format!("\n    {problem}")).collect(),
    }
}

/// Formats at most 20 problems, and counts the others.
fn listing(problems: &[String]) -> String {
    let shown = problems.iter().take(20).map(String::as_str).collect::<Vec<_>>().join("; ");
    match problems.len().saturating_sub(20) {
        0 => shown,
        more => format!("{shown}; and {more} more"),
    }
}
