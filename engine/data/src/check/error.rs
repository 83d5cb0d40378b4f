//! Errors of a check itself. Problems of the data are in its report.

use std::{io, path::PathBuf};

use crate::error::DataError;

/// Error of a check that did not finish.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// The caller stopped it.
    #[error("the check was stopped after {records} records; it wrote nothing")]
    Stopped {
        /// Number of checked records.
        records: u64,
    },
    /// A result cannot be written.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A folder cannot be created.
    #[error("cannot create {}", path.display())]
    Write {
        /// The folder.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The operating system cannot start a thread.
    #[error("cannot start a thread of the check")]
    Thread {
        /// Error of the operating system.
        source: io::Error,
    },
    /// A thread panicked.
    #[error("a thread of the check panicked: see its message above")]
    Panicked,
}
