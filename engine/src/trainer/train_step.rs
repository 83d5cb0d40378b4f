//! A training step of the loop: callbacks, optimizer step, metrics and loss spikes.

use super::fit::Fit;
use super::microbatch::Microbatch;
use super::requirements::unmet;
use super::spike::{Spike, observe};
use super::step_metrics::{record, step_metrics};
use crate::error::{EngineError, Result};
use crate::optim::learning_rate;
use crate::profile::phase;
use neva_track::StepMetrics;
use std::time::{Duration, Instant};

/// Consecutive skipped steps that end a run: its weights or its data are not finite.
const MOST_SKIPPED: u64 = 10;

impl Fit<'_> {
    /// Runs a step, whose data loading began at `started` and took `waited`. Returns a callback's reason to stop.
    pub(super) fn step(
        &mut self,
        step: u64,
        microbatches: &[Microbatch],
        (started, waited): (Instant, Duration),
    ) -> Result<Option<String>> {
        let finetune = &self.state.run.finetune;
        let profiler = self.profiler().clone();
        self.hook(|callback, run| callback.on_step_start(run, step))?;
        let total_steps = self.state.progress.total_steps;
        // A skipped step does not advance the schedule, as in Megatron's training loop.
        let scheduled = step.saturating_sub(self.state.progress.skipped_steps);
        let rate = |peak: f64| learning_rate(finetune.optim.lr_scheduler(), peak, total_steps, scheduled);
        let done = self.trainer.step(microbatches, rate, step)?;
        let _log = profiler.span(phase::LOG);
        let consumed_before = self.state.progress.consumed_samples;
        let progress = &mut self.state.progress;
        progress.steps_done = step + 1;
        progress.consumed_samples += finetune.data.global_batch_size();
        progress.row_start = self.rows.start(progress.consumed_samples)?;
        progress.skipped_in_a_row = match (done.applied, done.overflow) {
            (true, _) => 0,
            // The first loss scale of NeMo is 2^32: many steps in a row may pass until it fits.
            (false, true) => progress.skipped_in_a_row,
            (false, false) => progress.skipped_in_a_row + 1,
        };
        progress.loss_scale = self.trainer.loss_scale().cloned();
        progress.skipped_steps += u64::from(!done.applied);
        for (name, value) in [("reduced_train_loss", done.loss), ("grad_norm", done.grad_norm)] {
            record(progress, name, value);
        }
        if done.labels == 0 {
            let global_batch = || self.batching.global_batch(&*self.rows, consumed_before);
            self.label_warnings.step(step, &*self.data.train, global_batch)?;
        }
        let progress = &mut self.state.progress;
        if progress.skipped_in_a_row == MOST_SKIPPED {
            let (what, value) = match done.grad_norm.filter(|_| done.objective.is_finite()) {
                Some(norm) => ("the gradient norm of ten steps in a row", norm),
                None => ("the loss of ten steps in a row", done.objective),
            };
            return Err(EngineError::NotFinite { step, what, value });
        }
        self.check_requirements(step)?;
        let progress = &mut self.state.progress;
        let metrics = step_metrics(step, &done, rate(*finetune.optim.lr()), progress, (started, waited));
        self.state.report.losses.push(done.loss.unwrap_or(f64::NAN));
        self.state.report.steps = step + 1;
        if let Some(threshold) = finetune.trainer.loss_spike_threshold {
            self.detect_spike(&metrics, threshold, consumed_before)?;
        }
        let last = step + 1 == total_steps;
        if last || step.is_multiple_of(finetune.trainer.log_every_n_steps) {
            self.records.step(&metrics, total_steps)?;
        }
        self.ask(|callback, run| callback.on_step_end(run, &metrics))
    }

    /// Ends the run after the first step of this attempt if it does not do what the recipe requires. All ranks have the same
    /// report.
    fn check_requirements(&mut self, step: u64) -> Result<()> {
        let require = &self.state.run.finetune.trainer.require;
        if require.is_empty() || !self.state.report.losses.is_empty() {
            return Ok(());
        }
        let report = self.trainer.effects()?;
        let missing = unmet(&report, require);
        if missing.is_empty() {
            return Ok(());
        }
        self.records.effects(&report)?;
        Err(EngineError::Unmet { step, missing })
    }

    fn detect_spike(&mut self, metrics: &StepMetrics, threshold: f64, consumed: u64) -> Result<()> {
        let StepMetrics {
            step,
            reduced_train_loss: Some(loss),
            ..
        } = *metrics
        else {
            return Ok(());
        };
        let Some((mean, deviation)) = observe(&mut self.state.progress.recent_losses, loss, threshold) else {
            return Ok(());
        };
        if self.state.is_first {
            let indices = self.batching.global_batch(&*self.rows, consumed)?;
            let samples = indices.iter().map(|index| self.data.train.name(*index as usize)).collect();
            let spike = Spike {
                step,
                loss,
                mean,
                deviation,
                samples,
            };
            spike.report(&self.state.run_dir.join("spikes.jsonl"))?;
        }
        Ok(())
    }
}
