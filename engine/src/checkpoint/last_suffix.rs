//! The suffix `-last` of the newest checkpoint.
//!
//! At most one checkpoint has the suffix: the newest is published without it, the previous one loses it, and only then
//! the newest gets it. A process killed in between leaves every checkpoint whole, and none with the suffix. The next
//! start chooses by steps, never by names, and restores the suffix.

use super::folder::{CheckpointFolder, remove};
use std::path::{Path, PathBuf};

/// Suffix of the newest checkpoint's name.
pub(super) const LAST: &str = "-last";

/// Returns a checkpoint's path without the suffix.
pub(super) fn without_suffix(path: &Path) -> PathBuf {
    match name(path).strip_suffix(LAST) {
        Some(plain) => path.with_file_name(plain),
        None => path.to_owned(),
    }
}

/// Removes the suffix from all checkpoints beside `newest`, and with `save_last` adds it to `newest`. Returns the path of
/// `newest`. A failure is logged, and leaves at most one checkpoint with the suffix.
pub(super) fn move_last_suffix(newest: &Path, save_last: bool) -> PathBuf {
    let parent = newest.parent().unwrap_or(newest);
    let entries = std::fs::read_dir(parent).into_iter().flatten().filter_map(Result::ok);
    let others = entries.map(|entry| entry.path()).filter(|path| path != newest);
    let others = others.filter(|path| name(path).ends_with(LAST) && !name(path).starts_with('.') && CheckpointFolder::is_checkpoint(path));
    for path in others {
        let plain = without_suffix(&path);
        // An earlier attempt saved the same step: the new checkpoint replaces it.
        let renamed = if plain == newest { remove(&path) } else { rename(&path, &plain) };
        if let Err(error) = renamed {
            tracing::warn!("cannot remove the suffix {LAST} from {}: {error}", path.display());
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
            tracing::warn!("cannot add the suffix {LAST} to {}: {error}", newest.display());
            newest.to_owned()
        }
    }
}

/// Renames a folder, and replaces an older one of that name.
fn rename(from: &Path, to: &Path) -> std::io::Result<()> {
    if to.is_dir() {
        remove(to)?;
    }
    std::fs::rename(from, to)
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
