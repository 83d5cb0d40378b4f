//! Writing a checkpoint: aside, synced, renamed; older ones go only afterwards.

use super::checksum::{Checksum, Checksums, SEAL};
use super::folder::{DAMAGED, UNFINISHED, checkpoints_in};
use super::retention::{Candidate, belongs, kept};
use super::safetensors_file::write_tensors;
use super::state::{BaseReference, CHECKPOINT_FORMAT, CheckpointState, RunProgress};
use crate::comm::{Axis, Collective, Mesh, Reduce, first_decides};
use crate::error::{EngineError, Result};
use crate::optim::{Optimizer, Piece};
use crate::parameters::{Parameter, Parameters};
use neva_layout::ParamSpec;
use neva_schemas::{ModelCheckpoint, Run};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor};

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

/// End of the newest checkpoint's name.
const LAST: &str = "-last";

/// Saves to `parent/<run>--<monitor>=<value>-step=<last step>-consumed_samples=<n>`, with `-last` at the end of
/// the newest one's name, and removes what need not be kept any more. Every rank calls it; the first one writes.
/// Returns the folder.
///
/// # Errors
/// The disk is full or a collective failed; earlier checkpoints are as they were.
pub fn save(parent: &Path, snapshot: &Snapshot<'_>, mesh: &Mesh) -> Result<PathBuf> {
    let config = &snapshot.run.finetune.log.ckpt;
    let tensor_group = mesh.axis(Axis::Tensor);
    let mut model = Vec::new();
    let mut optimizer_tensors = Vec::new();
    let mut pieces = snapshot.optimizer.pieces().peekable();
    for parameter in snapshot.parameters.trainable() {
        let spec = &parameter.spec;
        let piece = pieces.next_if(|piece| piece.spec.name == spec.name);
        let whole = |value: &dyn Fn(&Piece<'_>) -> Tensor| {
            let value = piece.as_ref().map(|piece| (piece.range.start, value(piece)));
            let local = match value {
                Some((_, value)) if !snapshot.optimizer.is_distributed() => value.f_view_as(&parameter.tensor)?,
                value => gathered(parameter, value, mesh)?,
            };
            whole(spec, &local, &**tensor_group)
        };
        model.push((spec.name.clone(), whole(&|piece| piece.master.shallow_clone())?));
        if config.save_weights_only {
            continue;
        }
        for (at, suffix) in snapshot.optimizer.moments().iter().enumerate() {
            let moment = whole(&|piece| piece.moments[at].1.shallow_clone())?;
            optimizer_tensors.push((format!("{}.{suffix}", spec.name), moment));
        }
        let step = Tensor::zeros([1], (Kind::Float, parameter.tensor.device()));
        if let Some(piece) = &piece {
            step.shallow_clone().f_copy_(piece.step)?;
        }
        mesh.replicas().all_reduce(&step, Reduce::Max)?;
        optimizer_tensors.push((format!("{}.step", spec.name), step));
    }
    // Whether it was saved, all ranks hear before the next step.
    first_decides(mesh, || {
        let name = name(snapshot);
        let target = parent.join(&name);
        let files = Files::of(parent, &name);
        let written = files
            .write(snapshot, model, optimizer_tensors)
            .and_then(|()| files.publish(&target));
        if written.is_err() {
            // Frees the disk; the first error is the one to report.
            let _ = std::fs::remove_dir_all(&files.aside);
            let _ = std::fs::remove_file(&files.marker);
        }
        written?;
        prune(parent, &target, config);
        Ok(target)
    })
}

/// Whether a checkpoint with this value of the monitored metric would be kept for it, beside those in `parent`.
pub fn is_among_best(parent: &Path, metric: f64, config: &ModelCheckpoint) -> bool {
    let others: Vec<_> = checkpoints_in(parent)
        .iter()
        .map(|checkpoint| candidate(&checkpoint.state.progress, config))
        .collect();
    belongs(metric, &others, config)
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
fn name(snapshot: &Snapshot<'_>) -> String {
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

/// A local tensor of which this rank may have values from some number on, and the other ranks with the same parameters
/// the rest.
fn gathered(parameter: &Parameter, own: Option<(usize, Tensor)>, mesh: &Mesh) -> Result<Tensor> {
    let local = Tensor::f_zeros([parameter.tensor.numel() as i64], (Kind::Float, parameter.tensor.device()))?;
    if let Some((start, value)) = own {
        local.f_narrow(0, start as i64, value.size1()?)?.f_copy_(&value)?;
    }
    mesh.replicas().all_reduce(&local, Reduce::Sum)?;
    Ok(local.f_view_as(&parameter.tensor)?)
}

/// Where a checkpoint is written before it has its name.
struct Files {
    aside: PathBuf,
    marker: PathBuf,
}

impl Files {
    fn of(parent: &Path, name: &str) -> Self {
        Self {
            aside: parent.join(format!(".{name}.writing")),
            marker: parent.join(format!("{name}{UNFINISHED}")),
        }
    }

    fn write(&self, snapshot: &Snapshot<'_>, model: Vec<(String, Tensor)>, optimizer: Vec<(String, Tensor)>) -> Result<()> {
        let aside = &self.aside;
        // What an interrupted save left.
        if aside.exists() {
            std::fs::remove_dir_all(aside).map_err(EngineError::io("remove", aside))?;
        }
        std::fs::create_dir_all(aside).map_err(EngineError::io("create", aside))?;
        write_file(&self.marker, b"")?;
        let mut names = vec!["model.safetensors".to_owned()];
        write_tensors(&aside.join("model.safetensors"), model)?;
        let has_optimizer = !optimizer.is_empty();
        if has_optimizer {
            names.push("optimizer.safetensors".to_owned());
            write_tensors(&aside.join("optimizer.safetensors"), optimizer)?;
        }
        for (name, bytes) in snapshot.artifacts {
            names.push(name.clone());
            write_file(&aside.join(name), bytes)?;
        }
        names.push("run.json".to_owned());
        write_file(&aside.join("run.json"), &json(snapshot.run)?)?;
        let sums = names.into_iter().map(|name| Ok((name.clone(), Checksum::of(&aside.join(name))?)));
        let state = CheckpointState {
            format: CHECKPOINT_FORMAT,
            version: env!("CARGO_PKG_VERSION").into(),
            progress: snapshot.progress.clone(),
            base: snapshot.base.clone(),
            optimizer: has_optimizer,
            files: sums.collect::<Result<Checksums>>()?,
        };
        let state = json(&state)?;
        write_file(&aside.join("checkpoint.json"), &state)?;
        write_file(&aside.join(SEAL), blake3::hash(&state).to_hex().as_bytes())
    }

    /// Gives the checkpoint its name: from this moment on it is there.
    fn publish(&self, target: &Path) -> Result<()> {
        let aside = &self.aside;
        std::fs::remove_file(&self.marker).map_err(EngineError::io("remove", &self.marker))?;
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

/// Removes what need not be kept beside `newest`, and takes `-last` off the names of the others. A failure only
/// costs disk space.
fn prune(parent: &Path, newest: &Path, config: &ModelCheckpoint) {
    let checkpoints = checkpoints_in(parent);
    let candidates: Vec<_> = checkpoints
        .iter()
        .map(|checkpoint| candidate(&checkpoint.state.progress, config))
        .collect();
    for (checkpoint, kept) in checkpoints.iter().zip(kept(&candidates, config)) {
        let path = &checkpoint.path;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let changed = match name.strip_suffix(LAST) {
            // A folder that is being removed must not be taken for a checkpoint.
            _ if !kept => {
                let aside = path.with_file_name(format!(".{name}.removing"));
                std::fs::rename(path, &aside).and_then(|()| std::fs::remove_dir_all(&aside))
            }
            Some(short) if path != newest => std::fs::rename(path, path.with_file_name(short)),
            _ => Ok(()),
        };
        if let Err(error) = changed {
            tracing::warn!("cannot tidy up the older checkpoint {}: {error}", path.display());
        }
    }
}

fn candidate(progress: &RunProgress, config: &ModelCheckpoint) -> Candidate {
    Candidate {
        steps_done: progress.steps_done,
        metric: progress.metrics.get(&config.monitor).copied(),
    }
}
