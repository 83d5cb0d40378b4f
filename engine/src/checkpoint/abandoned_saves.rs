//! Removes the remains of killed saves.

use super::folder::{REMOVING, UNFINISHED};
use super::staging::StagingDir;
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io;
use std::path::Path;

/// Removes the remains of killed saves and removals from a run's checkpoints. Keeps what a running job writes, or may
/// write.
pub(super) fn remove_abandoned_saves(parent: &Path) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().filter_map(Result::ok) {
        let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        let removed = if name.starts_with('.') && name.ends_with(REMOVING) {
            std::fs::remove_dir_all(&path).map(|()| true)
        } else if let Some(name) = name.strip_suffix(UNFINISHED) {
            remove_abandoned_save(&StagingDir::of(parent, name))
        } else {
            continue;
        };
        match removed {
            Ok(true) => tracing::info!("removed {}, which an interrupted save left", path.display()),
            Ok(false) => {}
            Err(error) => tracing::warn!("cannot remove {}, which an interrupted save left: {error}", path.display()),
        }
    }
}

/// Removes the remains of a save whose writer is gone. Returns false if the writer runs.
fn remove_abandoned_save(staging: &StagingDir) -> io::Result<bool> {
    let marker = File::options().write(true).open(&staging.marker)?;
    // The lock is held until everything is removed: a run that starts to write this checkpoint waits.
    if flock(&marker, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(false);
    }
    if staging.folder.exists() {
        std::fs::remove_dir_all(&staging.folder)?;
    }
    std::fs::remove_file(&staging.marker).map(|()| true)
}
