//! Writing a checkpoint: aside, synced, renamed; older ones go only afterwards.

use super::folder::{CHECKPOINT_FORMAT, CheckpointFolder, CheckpointState};
use super::safetensors_file::write_tensors;
use crate::comm::{Axis, Collective, Mesh};
use crate::error::{EngineError, Result};
use crate::optim::AdamW;
use crate::parameters::Parameters;
use neva_layout::ParamSpec;
use neva_schemas::Run;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use tch::Tensor;

/// What else belongs to a checkpoint: files by name.
pub type Artifacts = Vec<(String, Vec<u8>)>;

/// Saves to `parent/<run>--step=<last step>-consumed_samples=<n>` and keeps `keep` older ones. Every rank
/// calls it; the first one writes. Returns the folder.
///
/// # Errors
/// The disk is full or a collective failed; earlier checkpoints are as they were.
#[expect(
    clippy::too_many_arguments,
    reason = "a checkpoint is made of just these parts, and one place calls it"
)]
pub fn save(
    parent: &Path,
    run: &Run,
    steps_done: u64,
    consumed_samples: u64,
    loss: Option<f64>,
    parameters: &Parameters,
    optimizer: &AdamW,
    artifacts: &Artifacts,
    mesh: &Mesh,
    keep: u64,
) -> Result<PathBuf> {
    let name = format!(
        "{}--step={}-consumed_samples={consumed_samples}",
        run.finetune.log.name,
        steps_done.saturating_sub(1)
    );
    let target = parent.join(&name);
    let tensor_group = mesh.axis(Axis::Tensor);
    let mut model = Vec::new();
    let mut optimizer_tensors = Vec::new();
    for ((_, state), parameter) in optimizer.states().zip(parameters.trainable()) {
        let spec = &parameter.spec;
        model.push((spec.name.clone(), whole(spec, &state.master, &**tensor_group)?));
        for (suffix, tensor) in [("exp_avg", &state.exp_avg), ("exp_avg_sq", &state.exp_avg_sq)] {
            optimizer_tensors.push((format!("{}.{suffix}", spec.name), whole(spec, tensor, &**tensor_group)?));
        }
        optimizer_tensors.push((format!("{}.step", spec.name), state.step.shallow_clone()));
    }
    if mesh.is_first() {
        let state = CheckpointState {
            format: CHECKPOINT_FORMAT,
            version: env!("CARGO_PKG_VERSION").into(),
            steps_done,
            consumed_samples,
            loss,
        };
        let aside = parent.join(format!(".{name}.writing"));
        let written = write(&aside, run, &state, model, optimizer_tensors, artifacts).and_then(|()| publish(&aside, &target));
        if written.is_err() {
            // Frees the disk; the first error is the one to report.
            let _ = std::fs::remove_dir_all(&aside);
        }
        written?;
        prune(parent, keep);
    }
    Ok(target)
}

/// The whole tensor of which this rank holds a part.
fn whole(spec: &ParamSpec, local: &Tensor, group: &dyn Collective) -> Result<Tensor> {
    let size = group.size();
    let Some(shard) = spec.shard(group.rank(), size) else {
        return Ok(local.detach());
    };
    let parts = group.all_gather(&local.detach().contiguous())?;
    let real = parts.iter().enumerate().map(|(rank, part)| {
        let len = spec.shard(rank, size).map_or(0, |shard| shard.len);
        part.narrow(shard.dim as i64, 0, len as i64)
    });
    Ok(Tensor::cat(&real.collect::<Vec<_>>(), shard.dim as i64))
}

fn write(
    aside: &Path,
    run: &Run,
    state: &CheckpointState,
    model: Vec<(String, Tensor)>,
    optimizer: Vec<(String, Tensor)>,
    artifacts: &Artifacts,
) -> Result<()> {
    // What an interrupted save left.
    if aside.exists() {
        std::fs::remove_dir_all(aside).map_err(EngineError::io("remove", aside))?;
    }
    std::fs::create_dir_all(aside).map_err(EngineError::io("create", aside))?;
    write_tensors(&aside.join("model.safetensors"), model)?;
    write_tensors(&aside.join("optimizer.safetensors"), optimizer)?;
    for (name, bytes) in artifacts {
        write_file(&aside.join(name), bytes)?;
    }
    write_file(&aside.join("run.json"), &json(run)?)?;
    write_file(&aside.join("checkpoint.json"), &json(state)?)
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(value).map_err(|error| EngineError::Bug(format!("cannot be written as JSON: {error}")))
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(EngineError::io("write", path))
}

fn publish(aside: &Path, target: &Path) -> Result<()> {
    if target.exists() {
        // The same step was saved before (a run that went on from an older checkpoint).
        std::fs::remove_dir_all(target).map_err(EngineError::io("replace", target))?;
    }
    std::fs::rename(aside, target).map_err(EngineError::io("write", target))?;
    // The rename itself must reach the disk.
    let parent = target.parent().unwrap_or(target);
    File::open(parent)
        .and_then(|folder| folder.sync_all())
        .map_err(EngineError::io("write", parent))
}

/// Removes the oldest checkpoints beyond the newest and `keep` more. A failure only costs disk space.
fn prune(parent: &Path, keep: u64) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    let folders = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| CheckpointFolder::is_one(path));
    let mut checkpoints: Vec<_> = folders.filter_map(|path| CheckpointFolder::open(&path).ok()).collect();
    checkpoints.retain(|checkpoint| {
        !checkpoint
            .path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with('.'))
    });
    checkpoints.sort_by_key(|checkpoint| std::cmp::Reverse(checkpoint.state.steps_done));
    for old in checkpoints.iter().skip(1 + keep as usize) {
        if let Err(error) = std::fs::remove_dir_all(&old.path) {
            tracing::warn!("cannot remove the old checkpoint {}: {error}", old.path.display());
        }
    }
}
