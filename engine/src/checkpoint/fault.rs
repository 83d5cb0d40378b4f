//! Reasons why a checkpoint cannot be used.

use super::folder::format_of;
use super::state::CHECKPOINT_FORMAT;
use crate::error::EngineError;
use std::fmt::{self, Display, Formatter};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// A checkpoint that cannot be used, or a folder of checkpoints that cannot be read.
#[derive(Debug, Clone)]
pub struct UnusableCheckpoint {
    /// The folder.
    pub path: PathBuf,
    /// The kind of fault.
    pub fault: Fault,
    /// The reason, in words.
    pub reason: String,
}

/// Kind of fault of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Files are missing, or hold other bytes than were written.
    Damaged,
    /// The system refuses to read it. It may be whole.
    Unreadable,
    /// Another version of this program wrote it.
    OtherFormat,
    /// A run is writing it.
    Unfinished,
}

impl UnusableCheckpoint {
    pub(super) fn new(path: &Path, fault: Fault, reason: impl ToString) -> Self {
        Self {
            path: path.to_owned(),
            fault,
            reason: reason.to_string(),
        }
    }

    pub(super) fn of_error(path: &Path, error: &EngineError) -> Self {
        let fault = match error {
            EngineError::Io { source, .. } if source.kind() != ErrorKind::NotFound => Fault::Unreadable,
            _ if format_of(path).is_some_and(|format| format != CHECKPOINT_FORMAT) => Fault::OtherFormat,
            _ => Fault::Damaged,
        };
        Self::new(path, fault, error)
    }
}

impl Display for UnusableCheckpoint {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        // Most reasons begin with a file in the folder.
        match self.reason.contains(&*self.path.to_string_lossy()) {
            true => f.write_str(&self.reason),
            false => write!(f, "{}: {}", self.path.display(), self.reason),
        }
    }
}
