//! Which checkpoint is called `-last`.
//!
//! Two of that name would mislead whoever looks for it by its name, so there are never two: the newest checkpoint
//! appears under its name without the ending, the one before it gives the ending up, and only then the newest takes
//! it. A process that is killed in between leaves every checkpoint whole and none called so; the next start, which
//! chooses by steps and never by names, sets that right.

use super::folder::{CheckpointFolder, remove};
use std::path::{Path, PathBuf};

/// End of the newest checkpoint's name.
pub(super) const LAST: &str = "-last";

/// The name of a checkpoint without the ending.
pub(super) fn plain(path: &Path) -> PathBuf {
    match name(path).strip_suffix(LAST) {
        Some(plain) => path.with_file_name(plain),
        None => path.to_owned(),
    }
}

/// Takes the ending off all checkpoints beside `newest`, and with `save_last` puts it on `newest`, whose path is
/// returned. A failure is said, and leaves at most one that is called so.
pub(super) fn hand_over(newest: &Path, save_last: bool) -> PathBuf {
    let parent = newest.parent().unwrap_or(newest);
    let entries = std::fs::read_dir(parent).into_iter().flatten().filter_map(Result::ok);
    let others = entries.map(|entry| entry.path()).filter(|path| path != newest);
    let others = others.filter(|path| name(path).ends_with(LAST) && !name(path).starts_with('.') && CheckpointFolder::is_one(path));
    for path in others {
        let plain = plain(&path);
        // An attempt that called it so had saved the same step: the new one stands for both.
        let given_up = if plain == newest { remove(&path) } else { rename(&path, &plain) };
        if let Err(error) = given_up {
            tracing::warn!("{} keeps the name of the last checkpoint: {error}", path.display());
            return newest.to_owned();
        }
    }
    if !save_last || name(newest).ends_with(LAST) {
        return newest.to_owned();
    }
    let last = newest.with_file_name(name(newest) + LAST);
    match rename(newest, &last) {
        Ok(()) => last,
        Err(error) => {
            tracing::warn!("cannot call {} the last checkpoint: {error}", newest.display());
            newest.to_owned()
        }
    }
}

/// Renames a folder; an older one that has the name already gives way to it.
fn rename(from: &Path, to: &Path) -> std::io::Result<()> {
    if to.is_dir() {
        remove(to)?;
    }
    std::fs::rename(from, to)
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
