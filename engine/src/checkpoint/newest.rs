//! Searches folders for checkpoints.

use super::checksum::SEAL;
use super::fault::{Fault, UnusableCheckpoint};
use super::folder::{CheckpointFolder, DAMAGED, UNFINISHED, is_absent, is_gone};
use super::marker::is_being_written;
use crate::error::{EngineError, Result};
use std::cell::RefCell;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Scans of folders while checkpoints in them are renamed and removed.
const MAX_SCANS: usize = 8;

impl CheckpointFolder {
    /// Opens a checkpoint, or the newest one in a run's folder.
    ///
    /// # Errors
    /// There is none, or it cannot be opened.
    pub fn find(path: &Path) -> Result<Self> {
        if Self::is_checkpoint(path) || !path.is_dir() {
            return Self::open(path);
        }
        let unusable = RefCell::new(None);
        let parents = [path.join("checkpoints"), path.to_owned()];
        newest_checkpoint(&parents, |skipped| drop(unusable.replace(Some(skipped)))).ok_or_else(|| EngineError::Content {
            path: path.to_owned(),
            reason: match unusable.take() {
                Some(skipped) => format!("holds no usable checkpoint: {skipped}"),
                None => "is neither a checkpoint nor the folder of a run that has one".into(),
            },
        })
    }
}

/// Returns the whole checkpoint with the most steps among the folders directly in `parents`. The last parent wins a tie.
/// Each checkpoint is verified before it is chosen; `skipped` is called with each unusable one.
/// The search repeats if a running job renames or removes a checkpoint meanwhile.
pub fn newest_checkpoint(parents: &[PathBuf], skipped: impl Fn(UnusableCheckpoint)) -> Option<CheckpointFolder> {
    scan_until_stable(|| scan(parents, &skipped))
}

/// Result of one scan of folders.
#[derive(Default)]
struct Scan<T> {
    found: T,
    /// A folder was renamed or removed meanwhile.
    moved: bool,
}

/// Repeats `scan` until no folder moves meanwhile, at most [`MAX_SCANS`] times.
fn scan_until_stable<T>(scan: impl Fn() -> Scan<T>) -> T {
    let mut result = scan();
    for _ in 1..MAX_SCANS {
        if !result.moved {
            break;
        }
        result = scan();
    }
    result.found
}

fn scan(parents: &[PathBuf], skipped: &impl Fn(UnusableCheckpoint)) -> Scan<Option<CheckpointFolder>> {
    let (mut checkpoints, mut moved) = (Vec::new(), false);
    for parent in parents {
        let scan = open_all(parent, skipped);
        checkpoints.extend(scan.found);
        moved |= scan.moved;
    }
    checkpoints.sort_by(|a, b| (b.steps_done(), &b.path).cmp(&(a.steps_done(), &a.path)));
    for checkpoint in checkpoints {
        let Err(error) = checkpoint.verify() else {
            let found = Some(checkpoint);
            return Scan { found, moved };
        };
        if is_gone(&checkpoint.path) {
            moved = true;
        } else {
            skipped(UnusableCheckpoint::of_error(&checkpoint.path, &error));
        }
    }
    Scan { found: None, moved }
}

/// Returns the finished checkpoints directly in `parent`, in no order. Omits those that cannot be opened.
pub(super) fn checkpoints_in(parent: &Path) -> Vec<CheckpointFolder> {
    scan_until_stable(|| open_all(parent, &|_| ()))
}

/// Opens the finished checkpoints directly in `parent`. Calls `skipped` with each one that cannot be opened, and with
/// `parent` if it cannot be read.
fn open_all(parent: &Path, skipped: &impl Fn(UnusableCheckpoint)) -> Scan<Vec<CheckpointFolder>> {
    let mut scan = Scan::<Vec<_>>::default();
    let entries = match std::fs::read_dir(parent) {
        Ok(entries) => entries,
        Err(error) => {
            if error.kind() != ErrorKind::NotFound {
                skipped(UnusableCheckpoint::new(
                    parent,
                    Fault::Unreadable,
                    format!("cannot be read: {error}"),
                ));
            }
            return scan;
        }
    };
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                skipped(UnusableCheckpoint::new(
                    parent,
                    Fault::Unreadable,
                    format!("cannot be read: {error}"),
                ));
                break;
            }
        };
        let (Ok(name), path) = (entry.file_name().into_string(), entry.path()) else {
            continue;
        };
        if name.starts_with('.') || name.ends_with(DAMAGED) || name.ends_with(UNFINISHED) {
            continue;
        }
        match std::fs::metadata(path.join("checkpoint.json")) {
            Ok(_) => {}
            Err(error) if is_absent(&error) => {
                if is_gone(&path) {
                    scan.moved = true;
                } else if was_checkpoint(&name, &path) {
                    skipped(UnusableCheckpoint::new(&path, Fault::Damaged, "it holds no checkpoint.json"));
                }
                continue;
            }
            Err(error) => {
                skipped(UnusableCheckpoint::new(
                    &path,
                    Fault::Unreadable,
                    format!("cannot be read: {error}"),
                ));
                continue;
            }
        }
        if is_being_written(&parent.join(format!("{name}{UNFINISHED}"))) {
            skipped(UnusableCheckpoint::new(&path, Fault::Unfinished, "a run is writing it"));
            continue;
        }
        match CheckpointFolder::open(&path) {
            Ok(checkpoint) => scan.found.push(checkpoint),
            Err(_) if is_gone(&path) => scan.moved = true,
            Err(error) => skipped(UnusableCheckpoint::of_error(&path, &error)),
        }
    }
    scan
}

/// Returns true for a checkpoint that lost its files: it still has the name of a checkpoint, or the seal.
fn was_checkpoint(name: &str, path: &Path) -> bool {
    let has_name = name.contains("step=") && name.contains("consumed_samples=");
    (has_name && path.is_dir()) || path.join(SEAL).exists()
}
