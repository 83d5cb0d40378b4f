//! Restores the optimizer state of a checkpoint.

use super::folder::CheckpointFolder;
use super::shard::fp8_keys;
use crate::error::{EngineError, Result};
use crate::fp8::ScalingStates;
use crate::optim::Optimizer;
use crate::parameters::Parameters;
use neva_layout::Window;
use neva_schemas::{Optim, Problem};
use std::collections::BTreeSet;
use tch::{Kind, Tensor};

/// Restores a checkpoint's optimizer state into `optimizer`.
///
/// # Errors
/// The state belongs to another optimizer; or the file is not whole, or belongs to another model: all differences are
/// listed.
pub fn restore_optimizer(
    checkpoint: &CheckpointFolder,
    optimizer: &Optimizer,
    parameters: &Parameters,
    (tp_rank, tp): (usize, usize),
) -> Result<()> {
    // Several optimizers have moments of the same name with another meaning.
    let (theirs, ours) = (kind(&checkpoint.run.finetune.optim), kind(optimizer.config()));
    if theirs != ours {
        let message = format!(
            "{} holds the moments of {theirs}, this run trains with {ours}",
            checkpoint.path.display()
        );
        return Err(EngineError::Run(vec![Problem::error("finetune.optim", message).help(format!(
            "train on with {theirs}, or start from the weights alone: --set finetune.resume.restore_config.path=DIR"
        ))]));
    }
    let tensors = checkpoint.optimizer()?;
    let model = checkpoint.model()?;
    let rounded = parameters.trainable().filter(|parameter| parameter.tensor.kind() != Kind::Float);
    let rounded: BTreeSet<_> = rounded.map(|parameter| parameter.spec.name.as_str()).collect();
    let mut problems = Vec::new();
    let mut copies: Vec<(Tensor, Tensor)> = Vec::new();
    let mut masters = Vec::new();
    for shard in optimizer.shards() {
        let (spec, name) = (shard.spec, &shard.spec.name);
        let key = format!("{name}.step");
        match tensors.shape(&key) {
            Some([1]) => copies.push((shard.step.shallow_clone(), tensors.read(&key, &Window::whole(&[1]))?.view([1]))),
            _ => problems.push(format!("`{key}` is missing")),
        }
        let mut whole = |key: &str, shape: Option<&[usize]>| match shape {
            Some(shape) if shape == spec.shape => true,
            Some(shape) => {
                problems.push(format!("`{key}` has shape {shape:?}, the model needs {:?}", spec.shape));
                false
            }
            None => {
                problems.push(format!("`{key}` is missing"));
                false
            }
        };
        let moments = shard.moments.iter().map(|(moment, tensor)| (format!("{name}.{moment}"), *tensor));
        let moments: Vec<_> = moments.filter(|(key, _)| whole(key, tensors.shape(key))).collect();
        for (start, window) in spec.windows_of(shard.range.clone(), tp_rank, tp) {
            let place = |flat: &Tensor| {
                let flat = flat.narrow(0, (start - shard.range.start) as i64, window.numel() as i64);
                flat.view(window.shape().map(|size| size as i64))
            };
            if rounded.contains(name.as_str()) {
                // The parameter was rounded when it was loaded; its master weight keeps every bit.
                let own = shard.master.narrow(start - shard.range.start, window.numel())?;
                masters.push((own, model.read(name, &window)?));
            }
            for (key, tensor) in &moments {
                copies.push((place(tensor), tensors.read(key, &window)?));
            }
        }
    }
    if !problems.is_empty() {
        let path = tensors.path().to_owned();
        return Err(EngineError::Weights { path, problems });
    }
    tch::no_grad(|| copies.iter_mut().try_for_each(|(to, from)| to.f_copy_(from)))?;
    masters
        .iter()
        .try_for_each(|(to, from)| to.set(&from.f_to_kind(Kind::Float)?.f_view([-1])?))?;
    Ok(())
}

/// Restores the scales and amax histories of a checkpoint into `fp8`. Returns the number of linears whose state the checkpoint
/// lacks: those of a run without FP8, or with another recipe. They start anew.
///
/// # Errors
/// A file cannot be read, or a state has another shape.
pub fn restore_fp8(checkpoint: &CheckpointFolder, fp8: &ScalingStates) -> Result<usize> {
    let (tensors, mut missing) = (checkpoint.optimizer()?, 0);
    for state in fp8.states() {
        let [scale, history] = fp8_keys(state.linear);
        if tensors.shape(&scale).is_none() || tensors.shape(&history).is_none() {
            missing += 1;
            continue;
        }
        let (scale, history) = (tensors.read_whole(&scale)?, tensors.read_whole(&history)?);
        if scale.size() != [3] || history.size().first() != Some(&3) {
            return Err(EngineError::Weights {
                path: tensors.path().to_owned(),
                problems: vec![format!("the FP8 state of `{}` has another shape", state.linear)],
            });
        }
        fp8.restore(state.linear, &scale, &history)?;
    }
    Ok(missing)
}

/// Returns an optimizer's name in a recipe.
fn kind(optim: &Optim) -> &'static str {
    match optim {
        Optim::AdamW(_) => "optim.AdamW",
        Optim::Sgd(_) => "optim.SGD",
        Optim::Lion(_) => "optim.Lion",
    }
}
