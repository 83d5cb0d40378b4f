//! Chooses the checkpoint that a run resumes from.

use super::folder::{CheckpointFolder, is_gone};
use super::last_suffix::move_last_suffix;
use super::newest::newest_checkpoint;
use super::save::remove_leftovers;
use super::search_root::SearchRoot;
use super::unusable::UnusableCheckpoints;
use crate::comm::{Mesh, all_succeed, decide_on_first_rank};
use crate::error::{EngineError, Result};
use neva_schemas::{Finetune, Problem};
use std::path::{Path, PathBuf};

/// Attempts to choose a checkpoint while chosen ones vanish.
const CHOICES: usize = 8;

/// Returns the checkpoint that a run in `run_dir` resumes from, in NeMo's order: one of an earlier attempt in its own
/// folder; the one that the recipe names; the newest whole one that the recipe allows. Checksums are verified; an
/// unusable checkpoint is skipped for an older one, unless the recipe names it. Called on the first rank.
///
/// # Errors
/// The named checkpoint is missing or not whole; or all checkpoints are unusable; or there is none. The run may allow
/// the last two.
pub fn resume_from(finetune: &Finetune, run_dir: &Path) -> Result<Option<CheckpointFolder>> {
    let (resume, own) = (&finetune.resume, run_dir.join("checkpoints"));
    remove_leftovers(&own);
    let unusable = UnusableCheckpoints::default();
    let newest = newest_checkpoint(std::slice::from_ref(&own), |skipped| unusable.add(skipped));
    if let Some(checkpoint) = newest {
        unusable.mark_damaged(&own);
        if checkpoint.state.optimizer {
            return Ok(Some(CheckpointFolder {
                path: move_last_suffix(&checkpoint.path, finetune.log.ckpt.save_last),
                ..checkpoint
            }));
        }
        // An earlier attempt saved weights only: the run starts over, as it would without a checkpoint.
        tracing::warn!("save_weights_only: no run can resume from this run's checkpoints, it starts over");
    }
    let search = SearchRoot::of(resume, run_dir, &own);
    let other = match &resume.resume_from_path {
        Some(path) => {
            if !CheckpointFolder::is_checkpoint(path) {
                return Err(EngineError::Run(vec![
                    Problem::error(
                        "finetune.resume.resume_from_path",
                        format!("there is no checkpoint in {}", path.display()),
                    )
                    .help("name a folder with checkpoint.json, as those below a run's `checkpoints`"),
                ]));
            }
            let checkpoint = CheckpointFolder::open(path)?;
            checkpoint.verify()?;
            Some(checkpoint)
        }
        None if resume.resume_if_exists => search.newest(&unusable),
        None => None,
    };
    if let Some(checkpoint) = other {
        let checkpoint = require_optimizer_state(checkpoint)?;
        unusable.mark_damaged(&own);
        return Ok(Some(checkpoint));
    }
    let start = if resume.restore_config.is_some() || resume.adapter_path.is_some() {
        "starting from restore_config or adapter_path"
    } else {
        "starting from the beginning"
    };
    if let Some(refusal) = unusable.refusal() {
        if !resume.resume_ignore_damaged {
            return Err(refusal);
        }
        tracing::warn!("resume_ignore_damaged: no checkpoint can be used, {start}");
        unusable.mark_damaged(&own);
        return Ok(None);
    }
    if !resume.resume_if_exists {
        return Ok(None);
    }
    if resume.resume_ignore_no_checkpoint {
        tracing::warn!("{}: {start}", search.nothing());
    } else if search.is_missing() || resume.restore_config.is_none() {
        return Err(search.refusal());
    } else {
        tracing::info!("{}: {start}", search.nothing());
    }
    Ok(None)
}

/// Opens on all ranks the checkpoint that the first rank chooses. Chooses again if a running job renames or removes it
/// meanwhile.
///
/// # Errors
/// `choose` failed, or the checkpoint cannot be opened.
pub fn choose_checkpoint(mesh: &Mesh, mut choose: impl FnMut() -> Result<Option<PathBuf>>) -> Result<Option<CheckpointFolder>> {
    let mut choices = 1..;
    loop {
        let Some(path) = decide_on_first_rank(mesh, &mut choose)? else {
            return Ok(None);
        };
        let mut opened = None;
        let mine = CheckpointFolder::open(&path).map(|checkpoint| opened = Some(checkpoint));
        let Err(error) = all_succeed(mesh, mine) else { return Ok(opened) };
        let last = choices.next() == Some(CHOICES);
        if last || !decide_on_first_rank(mesh, || Ok(is_gone(&path)))? {
            return Err(error);
        }
    }
}

/// Returns the checkpoint if it holds the optimizer's state.
fn require_optimizer_state(checkpoint: CheckpointFolder) -> Result<CheckpointFolder> {
    if checkpoint.state.optimizer {
        return Ok(checkpoint);
    }
    Err(EngineError::Run(vec![
        Problem::error(
            "finetune.resume",
            format!(
                "{} holds weights only (save_weights_only): no run can resume from it",
                checkpoint.path.display()
            ),
        )
        .help("start from its weights: --set finetune.resume.restore_config.path=DIR"),
    ]))
}

/// Refuses the checkpoint of a finished run, as NeMo does, unless steps are left.
///
/// # Errors
/// No step is left, and the run does not set `resume_past_end`.
pub fn refuse_past_end(finetune: &Finetune, checkpoint: &CheckpointFolder, total_steps: u64) -> Result<()> {
    let progress = &checkpoint.state.progress;
    let (done, path) = (progress.steps_done, checkpoint.path.display());
    let finished = progress.finished && done >= total_steps.min(progress.total_steps);
    // This run is shorter than what is done already.
    let beyond = done > total_steps;
    let more = total_steps > progress.total_steps;
    if !(finished || beyond) || more || finetune.resume.resume_past_end {
        return Ok(());
    }
    let message = match finished {
        true => format!("the run of {path} is already done: {done} steps of {}", progress.total_steps),
        false => format!("the run of {path} has done {done} steps, but this run ends after {total_steps}"),
    };
    Err(EngineError::Run(vec![Problem::error("finetune.resume", message).help(
        "raise finetune.trainer.max_steps to train on, or set finetune.resume.resume_past_end=true to accept that",
    )]))
}
