//! A validation of the training loop.

use super::batches::validation_batches;
use super::fit::Fit;
use super::step_metrics::record;
use crate::checkpoint::is_among_best;
use crate::comm::decide_on_first_rank;
use crate::error::Result;
use neva_track::ValidationMetrics;
use std::time::Instant;

impl Fit<'_> {
    /// Runs a validation if there is data for it. Returns a callback's reason to stop.
    pub(super) fn validate(&mut self) -> Result<Option<String>> {
        let finetune = &self.state.run.finetune;
        let Some(dataset) = self.data.val.clone() else { return Ok(None) };
        let limit = finetune.trainer.limit_val_batches;
        if self.batching.validation_batches(dataset.len() as u64, limit) == 0 {
            return Ok(None);
        }
        self.hook(|callback, run| callback.on_validation_start(run))?;
        let started = Instant::now();
        let rows = self.val_rows.clone();
        let measured = self
            .trainer
            .evaluate_together(validation_batches(self.batching, dataset.clone(), rows, limit)?)?
            .map_err(|error| self.save_before(error))?;
        let metrics = ValidationMetrics {
            step: self.state.progress.steps_done - 1,
            val_loss: measured.loss(),
            val_label_tokens: measured.labels,
            val_samples: measured.samples,
            seconds: started.elapsed().as_secs_f64(),
        };
        record(&mut self.state.progress, "val_loss", metrics.val_loss);
        if measured.labels == 0 {
            self.label_warnings.validation(&*dataset, measured.samples);
        }
        self.records.validation(&metrics)?;
        let stop = self.ask(|callback, run| callback.on_validation_end(run, &metrics))?;
        let (ckpt, parent) = (&self.state.run.finetune.log.ckpt, self.checkpoints());
        if let Some(loss) = metrics.val_loss.filter(|loss| ckpt.monitor == "val_loss" && loss.is_finite()) {
            // The comparison needs all saves.
            self.finish_save()?;
            let best = decide_on_first_rank(self.trainer.mesh(), || Ok(is_among_best(&parent, loss, ckpt)))?;
            if best {
                self.save_unless_saved()?;
            }
        }
        Ok(stop)
    }
}
