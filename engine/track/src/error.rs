//! Errors of writing and reading a run's metrics.

use std::io;
use std::path::{Path, PathBuf};

/// An error of writing or reading metrics.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrackError {
    /// A file or folder could not be written or read.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// Failed action.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// A run has no metrics to draw.
    #[error("cannot draw {}: {reason}", path.display())]
    NoMetrics {
        /// The file for the run's metrics.
        path: PathBuf,
        /// The problem.
        reason: &'static str,
    },
    /// A line of a metrics file is invalid.
    #[error("cannot draw {}: line {line}: {reason}", path.display())]
    BrokenMetrics {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The problem.
        reason: String,
    },
}

impl TrackError {
    /// Creates a [`Self::Io`], for `map_err`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}
