//! Completes a folder with all parameters of a model to a checkpoint.

use super::checksum::{Checksum, Checksums, SEAL};
use super::durable::write_file;
use super::json::json;
use super::state::{BaseReference, CHECKPOINT_FORMAT, CheckpointState, RunProgress};
use crate::error::{EngineError, Result};
use neva_schemas::Run;
use std::path::Path;

/// Writes `run.json` and the table of all files of `folder`, which holds `model.safetensors` with all parameters.
///
/// # Errors
/// A file cannot be read or written.
pub(crate) fn seal_whole(folder: &Path, run: &Run, progress: &RunProgress) -> Result<()> {
    write_file(&folder.join("run.json"), &json(run)?)?;
    let entries = std::fs::read_dir(folder).map_err(EngineError::io("read", folder))?;
    let mut files = Checksums::new();
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_file()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.insert(name, Checksum::of(&path)?);
    }
    let state = json(&CheckpointState {
        format: CHECKPOINT_FORMAT,
        version: env!("CARGO_PKG_VERSION").into(),
        progress: progress.clone(),
        base: BaseReference::Seed {
            seed: run.finetune.trainer.seed,
        },
        optimizer: false,
        whole: true,
        files,
    })?;
    write_file(&folder.join("checkpoint.json"), &state)?;
    write_file(&folder.join(SEAL), blake3::hash(&state).to_hex().as_bytes())
}
