//! Writing a checkpoint: aside, synced, renamed; older ones go only afterwards.

use super::folder::{CHECKPOINT_FORMAT, CheckpointState, checkpoints_in};
use super::safetensors_file::write_tensors;
use crate::comm::{Axis, Collective, Mesh};
use crate::error::{EngineError, Result};
use crate::optim::AdamW;
use crate::parameters::Parameters;
use neva_layout::ParamSpec;
use neva_schemas::Run;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use tch::Tensor;

/// What else belongs to a checkpoint: files by name.
pub type Artifacts = Vec<(String, Vec<u8>)>;

/// What a checkpoint is made of.
#[derive(Debug, Clone, Copy)]
pub struct Snapshot<'a> {
    /// The resolved run.
    pub run: &'a Run,
    /// Optimizer steps that are done.
    pub steps_done: u64,
    /// Samples that were trained on.
    pub consumed_samples: u64,
    /// Loss of the last step.
    pub loss: Option<f64>,
    /// The parameters of this rank.
    pub parameters: &'a Parameters,
    /// The optimizer of this rank.
    pub optimizer: &'a AdamW,
    /// Files that belong to it.
    pub artifacts: &'a Artifacts,
}

/// Saves to `parent/<run>--step=<last step>-consumed_samples=<n>` and keeps `keep` older ones. Every rank
/// calls it; the first one writes. Returns the folder.
///
/// # Errors
/// The disk is full or a collective failed; earlier checkpoints are as they were.
pub fn save(parent: &Path, snapshot: &Snapshot<'_>, mesh: &Mesh, keep: u64) -> Result<PathBuf> {
    let name = format!(
        "{}--step={}-consumed_samples={}",
        snapshot.run.finetune.log.name,
        snapshot.steps_done.saturating_sub(1),
        snapshot.consumed_samples
    );
    let target = parent.join(&name);
    let tensor_group = mesh.axis(Axis::Tensor);
    let mut model = Vec::new();
    let mut optimizer_tensors = Vec::new();
    for ((_, state), parameter) in snapshot.optimizer.states().zip(snapshot.parameters.trainable()) {
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
            steps_done: snapshot.steps_done,
            consumed_samples: snapshot.consumed_samples,
            loss: snapshot.loss,
        };
        let aside = parent.join(format!(".{name}.writing"));
        let written = write(&aside, snapshot, &state, model, optimizer_tensors).and_then(|()| publish(&aside, &target));
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
    snapshot: &Snapshot<'_>,
    state: &CheckpointState,
    model: Vec<(String, Tensor)>,
    optimizer: Vec<(String, Tensor)>,
) -> Result<()> {
    // What an interrupted save left.
    if aside.exists() {
        std::fs::remove_dir_all(aside).map_err(EngineError::io("remove", aside))?;
    }
    std::fs::create_dir_all(aside).map_err(EngineError::io("create", aside))?;
    write_tensors(&aside.join("model.safetensors"), model)?;
    write_tensors(&aside.join("optimizer.safetensors"), optimizer)?;
    for (name, bytes) in snapshot.artifacts {
        write_file(&aside.join(name), bytes)?;
    }
    write_file(&aside.join("run.json"), &json(snapshot.run)?)?;
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
    if target.is_dir() {
        // The same step was saved before (a run that went on from an older checkpoint). The two change places
        // in one step of the file system: there is a whole checkpoint of that name at every moment.
        match renameat_with(CWD, aside, CWD, target, RenameFlags::EXCHANGE) {
            Ok(()) => std::fs::remove_dir_all(aside).map_err(EngineError::io("remove", aside))?,
            // Some network file systems cannot; there the name is free for a moment.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                std::fs::remove_dir_all(target).map_err(EngineError::io("replace", target))?;
                std::fs::rename(aside, target).map_err(EngineError::io("write", target))?;
            }
            Err(error) => return Err(EngineError::io("replace", target)(error.into())),
        }
    } else {
        std::fs::rename(aside, target).map_err(EngineError::io("write", target))?;
    }
    // The rename itself must reach the disk.
    let parent = target.parent().unwrap_or(target);
    File::open(parent)
        .and_then(|folder| folder.sync_all())
        .map_err(EngineError::io("write", parent))
}

/// Removes the oldest checkpoints beyond the newest and `keep` more. A failure only costs disk space.
fn prune(parent: &Path, keep: u64) {
    let mut checkpoints = checkpoints_in(parent);
    checkpoints.sort_by_key(|checkpoint| std::cmp::Reverse(checkpoint.state.steps_done));
    for old in checkpoints.iter().skip(1 + keep as usize) {
        if let Err(error) = std::fs::remove_dir_all(&old.path) {
            tracing::warn!("cannot remove the old checkpoint {}: {error}", old.path.display());
        }
    }
}
