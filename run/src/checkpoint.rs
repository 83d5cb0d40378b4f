//! The newest checkpoint in a run's folder, to tell the user of it.
//!
//! Reading checkpoints is the engine's affair; this knows of them no more than that a whole one has a name
//! without a leading dot, and a `checkpoint.json` that says after how many steps it was written.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;

/// Folder of the checkpoints in a run's folder.
const CHECKPOINTS: &str = "checkpoints";
const STATE_FILE: &str = "checkpoint.json";

/// The part of `checkpoint.json` that is read here.
#[derive(Deserialize)]
struct State {
    progress: Progress,
}

#[derive(Deserialize)]
struct Progress {
    steps_done: u64,
}

/// The checkpoint with the most steps in the folder of a run, or `None` where there is none.
pub(crate) fn newest(run_dir: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(run_dir.join(CHECKPOINTS)).into_iter().flatten().flatten();
    let whole = entries.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'));
    let steps = |path: PathBuf| {
        let state: State = serde_json::from_slice(&fs::read(path.join(STATE_FILE)).ok()?).ok()?;
        Some((state.progress.steps_done, path))
    };
    whole.filter_map(|entry| steps(entry.path())).max().map(|(_, path)| path)
}
