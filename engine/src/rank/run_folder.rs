//! Resolves a folder on the command line to a run.

use neva_schemas::PLAN_FILE;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Returns the newest run below `path` if that is the folder of all runs of a name; else `path`, a run's folder or a
/// checkpoint.
pub(super) fn newest_run(path: &Path) -> PathBuf {
    let is_run = |folder: &Path| folder.join(PLAN_FILE).is_file() || folder.join("checkpoints").is_dir();
    if is_run(path) {
        return path.to_owned();
    }
    let below = std::fs::read_dir(path).into_iter().flatten().filter_map(std::result::Result::ok);
    let runs = below.map(|entry| entry.path()).filter(|folder| folder.join("checkpoints").is_dir());
    let newest = runs.filter_map(|folder| Some((started(&folder)?, folder))).max();
    match newest {
        Some((_, folder)) => {
            tracing::info!("the newest run in {} is {}", path.display(), folder.display());
            folder
        }
        None => path.to_owned(),
    }
}

/// Returns the start time of the run in `folder`: its plan was written then.
fn started(folder: &Path) -> Option<SystemTime> {
    std::fs::metadata(folder.join(PLAN_FILE)).and_then(|plan| plan.modified()).ok()
}
