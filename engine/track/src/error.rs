//! What can go wrong with a run's records.

use std::io;
use std::path::{Path, PathBuf};

/// A record could not be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrackError {
    /// A file or folder could not be written or read.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A run has nothing to draw.
    #[error("cannot draw {}: {reason}", path.display())]
    NoMetrics {
        /// The file that should hold the run's metrics.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A line of a file of metrics is not one.
    #[error("cannot draw {}: line {line}: {reason}", path.display())]
    BrokenMetrics {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
}

impl TrackError {
    /// A [`Self::Io`] for `map_err`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}
