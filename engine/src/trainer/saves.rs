//! Saves of the training loop.

use super::fit::Fit;
use crate::checkpoint::{Artifacts, Saving, Snapshot};
use crate::error::{EngineError, Result};
use crate::profile::phase;
use std::path::PathBuf;

impl Fit<'_> {
    pub(super) fn checkpoints(&self) -> PathBuf {
        self.state.run_dir.join("checkpoints")
    }

    /// Writes a checkpoint, unless the current weights are already in one.
    pub(super) fn save_unless_saved(&mut self) -> Result<()> {
        if self.last_saved == Some(self.state.progress.steps_done) {
            return Ok(());
        }
        self.save()
    }

    /// Starts a save once the previous one is done. With `ckpt_async_save`, training continues meanwhile.
    pub(super) fn save(&mut self) -> Result<()> {
        let steps_done = self.state.progress.steps_done;
        if steps_done == 0 {
            return Ok(());
        }
        self.finish_save()?;
        let profiler = self.profiler().clone();
        let save = profiler.span(phase::SAVE);
        self.trainer.finish_param_gather()?;
        self.state.progress.callbacks = self.callbacks.iter().map(|callback| callback.state()).collect();
        let artifacts: &Artifacts = &self.data.artifacts;
        let snapshot = Snapshot {
            run: self.state.run,
            progress: &self.state.progress,
            base: &self.base,
            parameters: self.trainer.parameters(),
            optimizer: self.trainer.optimizer(),
            fp8: self.trainer.fp8(),
            artifacts,
        };
        let is_async = self.state.run.finetune.log.ckpt.ckpt_async_save;
        let memory = is_async.then_some(&self.memory);
        self.saving = Some(Saving::start(&self.checkpoints(), &snapshot, memory, self.trainer.mesh())?);
        self.last_saved = Some(steps_done);
        drop(save);
        if is_async { Ok(()) } else { self.finish_save() }
    }

    /// Saves before an error that all ranks know ends the run. Every rank calls it.
    pub(super) fn save_before(&mut self, error: EngineError) -> EngineError {
        match self.save_unless_saved().and_then(|()| self.finish_save()) {
            Ok(()) => match (error, &self.state.report.checkpoint) {
                // The other rank reports the checkpoint.
                (error @ EngineError::Peer { .. }, _) | (error, None) => error,
                (error, Some(checkpoint)) => EngineError::Saved {
                    error: Box::new(error),
                    checkpoint: checkpoint.clone(),
                    steps: self.state.progress.steps_done,
                },
            },
            Err(unsaved) => {
                tracing::warn!("steps since the last checkpoint are lost, they cannot be saved: {unsaved}");
                error
            }
        }
    }

    /// Waits for the save in progress, if there is one.
    pub(super) fn finish_save(&mut self) -> Result<()> {
        let Some(saving) = self.saving.take() else { return Ok(()) };
        let path = {
            let _save = self.trainer.mesh().profiler().span(phase::SAVE);
            saving.finish(self.trainer.mesh())?
        };
        self.state.report.checkpoint = Some(path.clone());
        self.hook(|callback, run| callback.on_checkpoint(run, &path))
    }
}
