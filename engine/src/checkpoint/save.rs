//! What a checkpoint is made of, and what it is called. It is written aside, synced and renamed; older ones go only
//! afterwards.

use super::folder::{DAMAGED, UNFINISHED};
use super::last::LAST;
use super::saving::Saving;
use super::state::{BaseReference, RunProgress};
use crate::comm::Mesh;
use crate::error::Result;
use crate::optim::Optimizer;
use crate::parameters::Parameters;
use neva_schemas::Run;
use std::path::{Path, PathBuf};

/// What else belongs to a checkpoint: files by name.
pub type Artifacts = Vec<(String, Vec<u8>)>;

/// What a checkpoint is made of.
#[derive(Debug, Clone, Copy)]
pub struct Snapshot<'a> {
    /// The resolved run.
    pub run: &'a Run,
    /// How far it has come.
    pub progress: &'a RunProgress,
    /// What it started from.
    pub base: &'a BaseReference,
    /// The parameters of this rank.
    pub parameters: &'a Parameters,
    /// The optimizer of this rank.
    pub optimizer: &'a Optimizer,
    /// Files that belong to it.
    pub artifacts: &'a Artifacts,
}

/// Saves to `parent/<run>--<monitor>=<value>-step=<last step>-consumed_samples=<n>`, with `-last` at the end of
/// the newest one's name, and removes what need not be kept any more. Every rank calls it, and writes
/// its share. Returns the folder.
///
/// # Errors
/// The disk is full or a collective failed; earlier checkpoints are as they were.
pub fn save(parent: &Path, snapshot: &Snapshot<'_>, mesh: &Mesh) -> Result<PathBuf> {
    Saving::start(parent, snapshot, None, mesh)?.finish(mesh)
}

/// Takes away what an attempt left that was killed in the middle of a save or a removal. Only the folder's one
/// writer may call it.
pub(super) fn clear_leftovers(parent: &Path) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().filter_map(Result::ok) {
        let (name, path) = (entry.file_name(), entry.path());
        let name = name.to_string_lossy();
        let removed = if name.starts_with('.') && (name.ends_with(".writing") || name.ends_with(".removing")) {
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

/// Puts a damaged checkpoint out of the way without losing it.
pub fn set_aside(path: &Path) {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(DAMAGED);
    if let Err(error) = std::fs::rename(path, path.with_file_name(name)) {
        tracing::warn!("cannot rename the damaged checkpoint {}: {error}", path.display());
    }
}

/// NeMo's name of a checkpoint; Lightning puts the names of metrics in.
pub(super) fn name(snapshot: &Snapshot<'_>) -> String {
    let (log, progress) = (&snapshot.run.finetune.log, snapshot.progress);
    let monitor = &log.ckpt.monitor;
    let metric = progress
        .metrics
        .get(monitor)
        .map(|value| format!("{monitor}={value:.2}-"))
        .unwrap_or_default();
    format!(
        "{}--{metric}step={}-consumed_samples={}{}",
        log.name,
        progress.steps_done.saturating_sub(1),
        progress.consumed_samples,
        if log.ckpt.save_last { LAST } else { "" },
    )
}
