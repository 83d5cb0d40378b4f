//! Reads the results of a job from its folder.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use neva_schemas::REPORT_FILE;
use serde::Deserialize;

use crate::{error::ExecutorError, event::JobResults};

/// Checkpoint folder within a run's folder.
pub(crate) const CHECKPOINTS: &str = "checkpoints";
/// File of a checkpoint that is written last.
const STATE_FILE: &str = "checkpoint.json";

impl JobResults {
    /// Reads the results of the job in `dir`, a folder on this machine.
    ///
    /// # Errors
    /// The report exists but cannot be read.
    pub fn read(dir: &Path) -> Result<Self, ExecutorError> {
        let path = dir.join(REPORT_FILE);
        let text = match fs::read(&path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(unreadable(path, source)),
        };
        let report = text.map(|text| serde_json::from_slice(&text)).transpose();
        Ok(Self {
            report: report.map_err(|error| unreadable(path, error.into()))?,
            checkpoint: newest_checkpoint(dir),
        })
    }

    /// Removes the report of an earlier attempt in `dir`, so that it is not read as that of the next.
    pub(crate) fn clear(dir: &Path) -> Result<(), ExecutorError> {
        let path = dir.join(REPORT_FILE);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(ExecutorError::File {
                action: "remove",
                path,
                source,
            }),
            _ => Ok(()),
        }
    }
}

fn unreadable(path: PathBuf, source: io::Error) -> ExecutorError {
    ExecutorError::File {
        action: "read",
        path,
        source,
    }
}

/// Returns the checkpoint with the most steps. Only the engine reads checkpoints; here a valid one has a name without a
/// leading dot and a `checkpoint.json` with its number of steps.
fn newest_checkpoint(run_dir: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(run_dir.join(CHECKPOINTS)).into_iter().flatten().flatten();
    let whole = entries.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'));
    let steps = |path: PathBuf| Some((steps_done(&fs::read(path.join(STATE_FILE)).ok()?)?, path));
    whole.filter_map(|entry| steps(entry.path())).max().map(|(_, path)| path)
}

/// Returns the number of steps in the text of a `checkpoint.json`; `None` if it is not whole.
pub(crate) fn steps_done(text: &[u8]) -> Option<u64> {
    /// The fields that are used here.
    #[derive(Deserialize)]
    struct State {
        progress: Progress,
    }

    #[derive(Deserialize)]
    struct Progress {
        steps_done: u64,
    }

    let state: State = serde_json::from_slice(text).ok()?;
    Some(state.progress.steps_done)
}
