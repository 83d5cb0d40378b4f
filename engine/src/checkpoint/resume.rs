//! What a run goes on from.

use super::folder::{CheckpointFolder, newest_checkpoint};
use super::last::hand_over;
use super::save::{clear_leftovers, set_aside};
use crate::error::{EngineError, Result};
use crate::optim::Optimizer;
use crate::parameters::Parameters;
use neva_layout::Window;
use neva_schemas::{AutoResume, Finetune, Optim, Problem};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor};

/// The checkpoint that a run in `run_dir` goes on from, in NeMo's order: one of an earlier attempt in its own
/// folder; the one that it names; the newest whole one that it allows. Checksums are verified: a damaged one is
/// passed over for an older one, except where the run names it. For the first rank, which tells the others.
///
/// # Errors
/// The named checkpoint is not there or not whole; or none was found and the run does not allow that.
pub fn resume_from(finetune: &Finetune, run_dir: &Path) -> Result<Option<CheckpointFolder>> {
    let own = run_dir.join("checkpoints");
    clear_leftovers(&own);
    let newest = newest_checkpoint(&[own], set_aside).map(|checkpoint| CheckpointFolder {
        path: hand_over(&checkpoint.path, finetune.log.ckpt.save_last),
        ..checkpoint
    });
    match newest {
        Some(checkpoint) if checkpoint.state.optimizer => return Ok(Some(checkpoint)),
        // An earlier attempt at a run that asked for this: it starts over, as it would have without a checkpoint.
        Some(_) => tracing::warn!("save_weights_only: no run can go on from this run's checkpoints, it starts over"),
        None => {}
    }
    let resume = &finetune.resume;
    if let Some(path) = &resume.resume_from_path {
        let checkpoint = CheckpointFolder::open(path)?;
        checkpoint.verify()?;
        return whole_state(checkpoint).map(Some);
    }
    if !resume.resume_if_exists {
        return Ok(None);
    }
    let (place, parents) = places(resume, run_dir.parent().unwrap_or(run_dir));
    match newest_checkpoint(&parents, |_| ()) {
        Some(checkpoint) => whole_state(checkpoint).map(Some),
        None if resume.resume_ignore_no_checkpoint => {
            tracing::warn!("no checkpoint under {}: starting from the beginning", place.display());
            Ok(None)
        }
        None if resume.restore_config.is_some() => Ok(None),
        None => Err(EngineError::Run(vec![
            Problem::error(
                "finetune.resume.resume_if_exists",
                format!("there is no checkpoint under {}", place.display()),
            )
            .help("set finetune.resume.resume_ignore_no_checkpoint=true to start from the beginning then"),
        ])),
    }
}

/// Folders that hold checkpoints: of every run of this name; or what `resume_from_directory` may mean, which is a
/// folder of checkpoints, of a run, or of runs.
fn places(resume: &AutoResume, runs: &Path) -> (PathBuf, Vec<PathBuf>) {
    let named = resume.resume_from_directory.as_deref();
    let place = named.unwrap_or(runs);
    let within = std::fs::read_dir(place).into_iter().flatten().filter_map(Result::ok);
    let mut parents: Vec<_> = within.map(|run| run.path().join("checkpoints")).collect();
    if named.is_some() {
        parents.extend([place.to_owned(), place.join("checkpoints")]);
    }
    parents.sort();
    (place.to_owned(), parents)
}

/// A checkpoint that a run can go on from.
fn whole_state(checkpoint: CheckpointFolder) -> Result<CheckpointFolder> {
    if checkpoint.state.optimizer {
        return Ok(checkpoint);
    }
    Err(EngineError::Run(vec![
        Problem::error(
            "finetune.resume",
            format!(
                "{} holds weights only (save_weights_only): no run can go on from it",
                checkpoint.path.display()
            ),
        )
        .help("start from its weights: --set finetune.resume.restore_config.path=DIR"),
    ]))
}

/// Refuses a checkpoint of a run that came to its end, as NeMo does, unless there are steps left to do.
///
/// # Errors
/// There is nothing left to do and the run does not say that this is all right.
pub fn refuse_past_end(finetune: &Finetune, checkpoint: &CheckpointFolder, total_steps: u64) -> Result<()> {
    let progress = &checkpoint.state.progress;
    let past = progress.finished && progress.steps_done >= total_steps.min(progress.total_steps);
    let more = total_steps > progress.total_steps;
    if !past || more || finetune.resume.resume_past_end {
        return Ok(());
    }
    let path = checkpoint.path.display();
    Err(EngineError::Run(vec![
        Problem::error(
            "finetune.resume",
            format!(
                "the run of {path} is already done: {} steps of {}",
                progress.steps_done, progress.total_steps
            ),
        )
        .help("raise finetune.trainer.max_steps to train on, or set finetune.resume.resume_past_end=true where that is all right"),
    ]))
}

/// Puts a checkpoint's optimizer state into `optimizer`.
///
/// # Errors
/// It is that of another optimizer; or the file is not whole, or is of another model: everything that does not fit is
/// listed.
pub fn restore_optimizer(
    checkpoint: &CheckpointFolder,
    optimizer: &Optimizer,
    parameters: &Parameters,
    (tp_rank, tp): (usize, usize),
) -> Result<()> {
    // Moments have the same names in several of them, and mean something else.
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
    for piece in optimizer.pieces() {
        let (spec, name) = (piece.spec, &piece.spec.name);
        let key = format!("{name}.step");
        match tensors.shape(&key) {
            Some([1]) => copies.push((piece.step.shallow_clone(), tensors.read(&key, &Window::whole(&[1]))?.view([1]))),
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
        let moments = piece.moments.iter().map(|(moment, tensor)| (format!("{name}.{moment}"), *tensor));
        let moments: Vec<_> = moments.filter(|(key, _)| whole(key, tensors.shape(key))).collect();
        for (start, window) in spec.windows_of(piece.range.clone(), tp_rank, tp) {
            let place = |flat: &Tensor| {
                let flat = flat.narrow(0, (start - piece.range.start) as i64, window.numel() as i64);
                flat.view(window.shape().map(|size| size as i64))
            };
            if rounded.contains(name.as_str()) {
                // The parameter was rounded when it was loaded; its master weight goes on from every bit.
                copies.push((place(piece.master), model.read(name, &window)?));
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
    Ok(())
}

/// An optimizer's name in a recipe.
fn kind(optim: &Optim) -> &'static str {
    match optim {
        Optim::AdamW(_) => "optim.AdamW",
        Optim::Sgd(_) => "optim.SGD",
        Optim::Lion(_) => "optim.Lion",
    }
}
