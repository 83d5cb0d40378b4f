//! Error of a file of weights.

use std::{
    io,
    path::{Path, PathBuf},
};

/// Result of reading or writing weights.
pub(crate) type Result<T, E = WeightsError> = std::result::Result<T, E>;

/// Error of a file of weights.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The file cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// Attempted action.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// The content is invalid or not supported.
    #[error("{}: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Its problem.
        reason: String,
        /// Advice; may be empty.
        help: &'static str,
    },
}

impl WeightsError {
    /// Returns a function that makes an error of the system one of `path`.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// Returns what to do instead.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Content { help, .. } if !help.is_empty() => Some(help),
            _ => None,
        }
    }
}
