//! What a run goes on from.

use super::folder::{CheckpointFolder, newest_checkpoint};
use super::safetensors_file::TensorFile;
use crate::error::{EngineError, Result};
use crate::optim::AdamW;
use crate::parameters::Parameters;
use neva_layout::ParamSpec;
use neva_schemas::{Finetune, Problem};
use std::path::{Path, PathBuf};
use tch::Tensor;

/// The checkpoint that the run goes on from, if it asks for one. `runs` is the folder of all runs of this
/// name; each has its checkpoints under `checkpoints/`.
///
/// # Errors
/// The named checkpoint is not there, or is not one; or none was found and the run does not allow that.
pub fn resume_from(finetune: &Finetune, runs: &Path) -> Result<Option<CheckpointFolder>> {
    let resume = &finetune.resume;
    if let Some(path) = &resume.resume_from_path {
        return CheckpointFolder::open(path).map(Some);
    }
    if !resume.resume_if_exists {
        return Ok(None);
    }
    let mut parents: Vec<PathBuf> = std::fs::read_dir(runs)
        .into_iter()
        .flatten()
        .filter_map(|run| Some(run.ok()?.path().join("checkpoints")))
        .collect();
    parents.sort();
    match newest_checkpoint(&parents) {
        Some(checkpoint) => Ok(Some(checkpoint)),
        None if resume.resume_ignore_no_checkpoint => {
            tracing::warn!("no checkpoint under {}: starting from the beginning", runs.display());
            Ok(None)
        }
        None if finetune.resume.restore_config.is_some() => Ok(None),
        None => Err(EngineError::Run(vec![
            Problem::error(
                "finetune.resume.resume_if_exists",
                format!("there is no checkpoint under {}", runs.display()),
            )
            .help("set finetune.resume.resume_ignore_no_checkpoint=true to start from the beginning then"),
        ])),
    }
}

/// Puts a checkpoint's optimizer state into `optimizer`.
///
/// # Errors
/// The file is not whole, or is of another model: everything that does not fit is listed.
pub fn restore_optimizer(
    checkpoint: &CheckpointFolder,
    optimizer: &AdamW,
    parameters: &Parameters,
    (tp_rank, tp): (usize, usize),
) -> Result<()> {
    let path = checkpoint.optimizer();
    let file = TensorFile::open(&path)?;
    let shapes = file.tensors();
    let model = TensorFile::open(&checkpoint.model())?;
    let mut problems = Vec::new();
    let mut copies: Vec<(Tensor, Tensor)> = Vec::new();
    for ((name, state), parameter) in optimizer.states().zip(parameters.trainable()) {
        let spec = &parameter.spec;
        if parameter.tensor.kind() != state.master.kind() {
            // The parameter was rounded when it was loaded; its master weight goes on from every bit.
            let master = model.read(name, spec.shard(tp_rank, tp))?;
            copies.push((real(spec, &state.master, tp_rank, tp), master));
        }
        for (suffix, tensor) in [("exp_avg", &state.exp_avg), ("exp_avg_sq", &state.exp_avg_sq)] {
            let key = format!("{name}.{suffix}");
            match shapes.get(&key) {
                Some(shape) if *shape == spec.shape => {
                    copies.push((real(spec, tensor, tp_rank, tp), file.read(&key, spec.shard(tp_rank, tp))?))
                }
                Some(shape) => problems.push(format!("`{key}` has shape {shape:?}, the model needs {:?}", spec.shape)),
                None => problems.push(format!("`{key}` is missing")),
            }
        }
        let key = format!("{name}.step");
        match shapes.get(&key) {
            Some(shape) if shape.as_slice() == [1] => copies.push((state.step.shallow_clone(), file.read(&key, None)?)),
            _ => problems.push(format!("`{key}` is missing")),
        }
    }
    if !problems.is_empty() {
        return Err(EngineError::Weights { path, problems });
    }
    tch::no_grad(|| copies.iter_mut().try_for_each(|(to, from)| to.f_copy_(from)))?;
    Ok(())
}

/// The part of a local tensor that is not padding.
fn real(spec: &ParamSpec, tensor: &Tensor, tp_rank: usize, tp: usize) -> Tensor {
    match spec.shard(tp_rank, tp) {
        Some(shard) => tensor.narrow(shard.dim as i64, 0, shard.len as i64),
        None => tensor.shallow_clone(),
    }
}
