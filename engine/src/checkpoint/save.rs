//! Saves a checkpoint: writes it to a staging directory, syncs and renames it, and only then removes older ones.

use super::folder::{DAMAGED, REMOVING, UNFINISHED};
use super::saving::Saving;
use super::snapshot::Snapshot;
use crate::comm::Mesh;
use crate::error::Result;
use std::path::{Path, PathBuf};

/// Saves to `parent/<run>--<monitor>=<value>-step=<last step>-consumed_samples=<n>`, with the suffix `-last` for the
/// newest, and removes older checkpoints that need not be kept. Every rank calls it and writes its shard. Returns the
/// folder.
///
/// # Errors
/// The disk is full or a collective failed. Earlier checkpoints are unchanged.
pub fn save(parent: &Path, snapshot: &Snapshot<'_>, mesh: &Mesh) -> Result<PathBuf> {
    Saving::start(parent, snapshot, None, mesh)?.finish(mesh)
}

/// Removes the remains of an attempt that was killed during a save or a removal. Only the folder's single writer may
/// call it.
pub(super) fn remove_leftovers(parent: &Path) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().filter_map(Result::ok) {
        let (name, path) = (entry.file_name(), entry.path());
        let name = name.to_string_lossy();
        let removed = if name.starts_with('.') && (name.ends_with(".writing") || name.ends_with(REMOVING)) {
            std::fs::remove_dir_all(&path)
        } else if name.ends_with(UNFINISHED) {
            std::fs::remove_file(&path)
        } else {
            continue;
        };
        match removed {
            Ok(()) => tracing::info!("removed {}, which an interrupted save left", path.display()),
            Err(error) => tracing::warn!("cannot remove {}, which an interrupted save left: {error}", path.display()),
        }
    }
}

/// Renames a damaged checkpoint, so that it is neither used nor overwritten.
pub fn mark_damaged(path: &Path) {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(DAMAGED);
    if let Err(error) = std::fs::rename(path, path.with_file_name(name)) {
        tracing::warn!("cannot rename the damaged checkpoint {}: {error}", path.display());
    }
}
