//! What can go wrong in the engine, and whose business it is.

use crate::comm::{CommError, IN_GROUP};
use neva_data::DataError;
use neva_schemas::{ExitClass, Problem, exit_class};
use neva_track::TrackError;
use std::path::{Path, PathBuf};

/// Result of the engine.
pub type Result<T, E = EngineError> = std::result::Result<T, E>;

/// Any failure of the engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The run cannot be done as it is described.
    #[error("{}", problems(.0))]
    Run(Vec<Problem>),
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{}: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Tensors of a file do not fit the model; all of them are listed.
    #[error("{}: {}", path.display(), listing(problems))]
    Weights {
        /// The file or folder.
        path: PathBuf,
        /// Each missing, foreign or misshapen tensor.
        problems: Vec<String>,
    },
    /// A dataset is wrong.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A record of the run could not be written.
    #[error(transparent)]
    Track(#[from] TrackError),
    /// Ranks could not talk.
    #[error(transparent)]
    Comm(#[from] CommError),
    /// libtorch refused an operation.
    #[error("libtorch: {0}")]
    Torch(String),
    /// The loss or a gradient is not a number any more.
    #[error("step {step}: {what} is {value}")]
    NotFinite {
        /// Optimizer step, from 0.
        step: u64,
        /// Which quantity.
        what: &'static str,
        /// Its value.
        value: f64,
    },
    /// This machine cannot run it.
    #[error("{0}")]
    Machine(String),
    /// The first rank failed, and told the others.
    #[error("the first rank failed: {message}")]
    First {
        /// Its exit code.
        class: ExitClass,
        /// What it said.
        message: String,
    },
    /// Another rank failed, and told all.
    #[error("rank {rank} failed: {message}")]
    Peer {
        /// Its number.
        rank: usize,
        /// Its exit code.
        class: ExitClass,
        /// What it said.
        message: String,
    },
    /// A mistake of ours.
    #[error("bug: {0}")]
    Bug(String),
}

/// What is done to files of the run's own.
const CHANGES: &[&str] = &["create", "write", "remove", "replace"];

impl EngineError {
    /// Exit code that tells whose business the failure is.
    pub fn class(&self) -> ExitClass {
        match self {
            Self::Run(_) | Self::Content { .. } | Self::Weights { .. } | Self::Data(_) => exit_class::INPUT,
            Self::Comm(CommError::Strangers(_)) => exit_class::INPUT,
            // What is to be read is there by the user's word.
            Self::Io { action, source, .. } if !CHANGES.contains(action) && source.kind() == std::io::ErrorKind::NotFound => {
                exit_class::INPUT
            }
            Self::Machine(_) | Self::Comm(CommError::Rendezvous { .. } | CommError::Unavailable(_)) => exit_class::CLUSTER,
            Self::Bug(_) | Self::Comm(CommError::Bug(_)) => exit_class::BUG,
            Self::First { class, .. } | Self::Peer { class, .. } => *class,
            Self::Io { .. } | Self::Track(_) | Self::Comm(_) | Self::Torch(_) | Self::NotFinite { .. } => exit_class::JOB,
        }
    }

    /// Whether another rank has the cause: it failed and said so, went away, or did not answer.
    pub fn is_of_a_peer(&self) -> bool {
        match self {
            Self::First { .. } | Self::Peer { .. } => true,
            Self::Comm(error) => error.is_of_a_peer(),
            // Out of a backward pass errors come as text.
            Self::Torch(text) => text.contains(IN_GROUP),
            _ => false,
        }
    }

    /// An [`Self::Io`] for `map_err`.
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

impl From<tch::TchError> for EngineError {
    fn from(error: tch::TchError) -> Self {
        // The C++ stack trace behind the first line says nothing to a user.
        Self::Torch(error.to_string().lines().next().unwrap_or_default().to_owned())
    }
}

/// One problem in a line of its own, several as a list.
fn problems(problems: &[Problem]) -> String {
    match problems {
        [problem] => problem.to_string(),
        several => several.iter().map(|problem| format!("\n    {problem}")).collect(),
    }
}

/// At most 20 problems, the rest counted.
fn listing(problems: &[String]) -> String {
    let shown = problems.iter().take(20).map(String::as_str).collect::<Vec<_>>().join("; ");
    match problems.len().saturating_sub(20) {
        0 => shown,
        more => format!("{shown}; and {more} more"),
    }
}
