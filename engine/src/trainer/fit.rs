//! A run, from a plan to a report: the loop of steps, validations and checkpoints. Where it starts is in `start.rs`.

use super::batches::{Slicing, TrainBatches, validation_batches};
use super::callback::{Callback, Flow, RunView};
use super::dataset::RunData;
use super::records::Records;
use super::registry::Registry;
use super::spike::{Spike, observe};
use super::step::{StepReport, Trainer};
use super::stop::{Clocks, Stop, StopRequest};
use crate::checkpoint::{Artifacts, BaseReference, HostMemory, ModelCache, RunProgress, Saving, Snapshot, is_among_best};
use crate::comm::{Mesh, first_decides, stages_succeed};
use crate::error::{EngineError, Result};
use crate::optim::learning_rate;
use neva_data::Order;
use neva_schemas::{LaunchPlan, Run, RunReport};
use neva_track::{Outcome, StepMetrics, ValidationMetrics};
use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::time::Instant;
use tch::Device;

/// Skipped steps in a row that end a run: its weights are not finite, or its data is not.
const MOST_SKIPPED: u64 = 10;

/// What a run is given beside its plan.
#[derive(Debug)]
pub struct Surroundings<'a> {
    /// The run's folder.
    pub run_dir: &'a Path,
    /// This rank's place.
    pub mesh: Mesh,
    /// Where its tensors lie.
    pub device: Device,
    /// Where `nemo://` models lie.
    pub cache: &'a ModelCache,
    /// Types that the run may name.
    pub registry: &'a Registry,
    /// A request to stop.
    pub stop: &'a StopRequest,
    /// The environment, for credentials.
    pub environment: fn(&str) -> Option<String>,
}

/// How far a run has come, for whoever reports its failure.
#[derive(Debug, Default)]
pub struct Progress {
    /// Optimizer step that is under way, from 0.
    pub step: Cell<Option<u64>>,
    /// The checkpoint that was being written when the run failed: it may still come to its end, and dropping it waits
    /// for that.
    pub last_save: RefCell<Option<Saving>>,
}

/// Trains as one rank until the run's end, or until it is asked to stop.
///
/// # Errors
/// Whatever goes wrong; the last checkpoint is whole.
pub fn fit(plan: &LaunchPlan, around: Surroundings<'_>, at: &Progress) -> Result<RunReport> {
    let mut fit = Fit::set_up(plan, around)?;
    match fit.train(at) {
        Ok(report) => {
            let outcome = if report.stopped.is_some() {
                Outcome::Stopped
            } else {
                Outcome::Finished
            };
            // Rank 0 may still be writing: a run is over when its records are there.
            first_decides(fit.trainer.mesh(), || fit.records.finish(outcome, &report))?;
            Ok(report)
        }
        Err(error) => {
            let Fit {
                callbacks, state, saving, ..
            } = &mut fit;
            at.last_save.replace(saving.take());
            callbacks.iter_mut().for_each(|callback| callback.on_failure(state.view(), &error));
            fit.records.fail();
            Err(error)
        }
    }
}

/// What the loop works on.
pub(super) struct Fit<'a> {
    pub(super) trainer: Trainer,
    pub(super) batches: TrainBatches,
    pub(super) callbacks: Vec<Box<dyn Callback>>,
    pub(super) records: Records,
    pub(super) clocks: Clocks,
    pub(super) stop: &'a StopRequest,
    pub(super) data: RunData,
    pub(super) slicing: Slicing,
    pub(super) order: Order,
    pub(super) base: BaseReference,
    pub(super) state: State<'a>,
    pub(super) last_saved: Option<u64>,
    /// The checkpoint that is being written.
    pub(super) saving: Option<Saving>,
    /// Where it lies meanwhile.
    pub(super) memory: HostMemory,
}

/// What a callback is shown.
pub(super) struct State<'a> {
    pub(super) run: &'a Run,
    pub(super) run_dir: PathBuf,
    pub(super) progress: RunProgress,
    pub(super) is_first: bool,
    pub(super) report: RunReport,
}

impl State<'_> {
    fn view(&self) -> RunView<'_> {
        RunView {
            finetune: &self.run.finetune,
            run_dir: &self.run_dir,
            progress: &self.progress,
            is_first: self.is_first,
        }
    }
}

impl Fit<'_> {
    fn train(&mut self, at: &Progress) -> Result<RunReport> {
        let run = self.state.run;
        let ckpt = &run.finetune.log.ckpt;
        self.hook(|callback, run| callback.on_train_start(run))?;
        let mut rule = None;
        while !self.state.progress.finished {
            // Asked before the first step, too: what is asked while weights are loaded need not wait for it.
            let saved = self.saving.as_ref().is_some_and(Saving::is_over);
            let agreed = self.clocks.agree(self.stop, rule.as_deref(), saved, self.trainer.mesh())?;
            if agreed.saved {
                self.settle()?;
            }
            let done = self.state.progress.steps_done;
            let over = done >= self.state.progress.total_steps;
            if let Some(Stop::Request(by)) = agreed.stop.as_ref().filter(|_| !over) {
                self.state.report.stopped = Some((*by).to_owned());
                self.save_unless_saved()?;
                break;
            }
            if over || agreed.stop.is_some() {
                if let Some(Stop::Rule(reason)) = agreed.stop.filter(|_| !over) {
                    tracing::info!("the run ends after {done} steps: {reason}");
                    self.state.report.ended_early = Some(reason);
                }
                self.state.progress.finished = true;
                if ckpt.save_on_train_end {
                    self.save()?;
                }
                break;
            }
            if agreed.save {
                self.save_unless_saved()?;
                self.clocks.saved();
            }
            at.step.set(Some(done));
            rule = self.step(done)?;
            let done = done + 1;
            self.state.progress.finished = done == self.state.progress.total_steps;
            if run
                .finetune
                .trainer
                .val_check_interval
                .is_some_and(|every| done.is_multiple_of(every))
            {
                rule = self.validate()?.or(rule);
            }
            let due = ckpt.every_n_train_steps.is_some_and(|every| done.is_multiple_of(every));
            if due || (self.state.progress.finished && ckpt.save_on_train_end) {
                self.save_unless_saved()?;
            }
        }
        self.settle()?;
        let report = self.state.report.clone();
        self.hook(|callback, run| callback.on_train_end(run, &report))?;
        Ok(report)
    }

    /// One step, with all that belongs to it. Returns a callback's reason to stop.
    fn step(&mut self, step: u64) -> Result<Option<String>> {
        let finetune = &self.state.run.finetune;
        self.hook(|callback, run| callback.on_step_start(run, step))?;
        let started = Instant::now();
        let total_steps = self.state.progress.total_steps;
        let rate = |peak: f64| learning_rate(finetune.optim.lr_scheduler(), peak, total_steps, step);
        // The stage with the vision encoder is the only one that knows of a broken picture.
        let microbatches = stages_succeed(self.trainer.mesh(), self.batches.next_step())?;
        let done = self.trainer.step(&microbatches, rate, step)?;
        let consumed_before = self.state.progress.consumed_samples;
        let progress = &mut self.state.progress;
        progress.steps_done = step + 1;
        progress.consumed_samples += finetune.data.global_batch_size();
        progress.skipped_in_a_row = if done.applied { 0 } else { progress.skipped_in_a_row + 1 };
        progress.skipped_steps += u64::from(!done.applied);
        for (name, value) in [("reduced_train_loss", done.loss), ("grad_norm", done.grad_norm)] {
            if value.is_finite() {
                progress.metrics.insert(name.into(), value);
            }
        }
        if progress.skipped_in_a_row == MOST_SKIPPED {
            let (what, value) = ("the loss of ten steps in a row", done.objective);
            return Err(EngineError::NotFinite { step, what, value });
        }
        let metrics = step_metrics(step, &done, rate(*finetune.optim.lr()), progress, started);
        self.state.report.losses.push(done.loss);
        self.state.report.steps = step + 1;
        if let Some(threshold) = finetune.trainer.loss_spike_threshold {
            self.look_for_spike(&metrics, threshold, consumed_before)?;
        }
        let last = step + 1 == total_steps;
        if last || step.is_multiple_of(finetune.trainer.log_every_n_steps) {
            self.records.step(&metrics, total_steps)?;
        }
        self.ask(|callback, run| callback.on_step_end(run, &metrics))
    }

    fn look_for_spike(&mut self, metrics: &StepMetrics, threshold: f64, consumed: u64) -> Result<()> {
        let StepMetrics {
            step,
            reduced_train_loss: loss,
            ..
        } = *metrics;
        let Some((mean, deviation)) = observe(&mut self.state.progress.recent_losses, loss, threshold) else {
            return Ok(());
        };
        if self.state.is_first {
            let indices = self.slicing.global_batch(&self.order, consumed);
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

    /// One validation, where there is data for it. Returns a callback's reason to stop.
    fn validate(&mut self) -> Result<Option<String>> {
        let finetune = &self.state.run.finetune;
        let Some(dataset) = self.data.val.clone() else { return Ok(None) };
        let limit = finetune.trainer.limit_val_batches;
        if self.slicing.validation_batches(dataset.len() as u64, limit) == 0 {
            return Ok(None);
        }
        self.hook(|callback, run| callback.on_validation_start(run))?;
        let started = Instant::now();
        let measured = self.trainer.evaluate(validation_batches(self.slicing, dataset, limit)?)?;
        let metrics = ValidationMetrics {
            step: self.state.progress.steps_done - 1,
            val_loss: if measured.labels == 0 {
                0.0
            } else {
                measured.loss_sum / measured.labels as f64
            },
            val_label_tokens: measured.labels,
            val_samples: measured.samples,
            seconds: started.elapsed().as_secs_f64(),
        };
        if metrics.val_loss.is_finite() {
            self.state.progress.metrics.insert("val_loss".into(), metrics.val_loss);
        }
        self.records.validation(&metrics)?;
        let stop = self.ask(|callback, run| callback.on_validation_end(run, &metrics))?;
        let (ckpt, parent) = (&self.state.run.finetune.log.ckpt, self.checkpoints());
        if ckpt.monitor == "val_loss" {
            // Which are best is a question for all that were saved.
            self.settle()?;
            let best = first_decides(self.trainer.mesh(), || Ok(is_among_best(&parent, metrics.val_loss, ckpt)))?;
            if best {
                self.save_unless_saved()?;
            }
        }
        Ok(stop)
    }

    fn checkpoints(&self) -> PathBuf {
        self.state.run_dir.join("checkpoints")
    }

    /// Writes a checkpoint, unless these weights are in one.
    fn save_unless_saved(&mut self) -> Result<()> {
        if self.last_saved == Some(self.state.progress.steps_done) {
            return Ok(());
        }
        self.save()
    }

    /// Starts to write a checkpoint when the one before it is there. With `ckpt_async_save` training goes on meanwhile.
    fn save(&mut self) -> Result<()> {
        let steps_done = self.state.progress.steps_done;
        if steps_done == 0 {
            return Ok(());
        }
        self.settle()?;
        self.trainer.settle()?;
        self.state.progress.callbacks = self.callbacks.iter().map(|callback| callback.state()).collect();
        let artifacts: &Artifacts = &self.data.artifacts;
        let snapshot = Snapshot {
            run: self.state.run,
            progress: &self.state.progress,
            base: &self.base,
            parameters: self.trainer.parameters(),
            optimizer: self.trainer.optimizer(),
            artifacts,
        };
        let meanwhile = self.state.run.finetune.log.ckpt.ckpt_async_save;
        let memory = meanwhile.then_some(&self.memory);
        self.saving = Some(Saving::start(&self.checkpoints(), &snapshot, memory, self.trainer.mesh())?);
        self.last_saved = Some(steps_done);
        if meanwhile { Ok(()) } else { self.settle() }
    }

    /// Waits for the checkpoint that is being written, if there is one.
    fn settle(&mut self) -> Result<()> {
        let Some(saving) = self.saving.take() else { return Ok(()) };
        let path = saving.finish(self.trainer.mesh())?;
        self.state.report.checkpoint = Some(path.clone());
        self.hook(|callback, run| callback.on_checkpoint(run, &path))
    }

    fn hook(&mut self, mut call: impl FnMut(&mut dyn Callback, RunView<'_>) -> Result<()>) -> Result<()> {
        let Self { callbacks, state, .. } = self;
        callbacks.iter_mut().try_for_each(|callback| call(&mut **callback, state.view()))
    }

    /// Asks every callback; the first reason to stop counts.
    fn ask(&mut self, mut call: impl FnMut(&mut dyn Callback, RunView<'_>) -> Result<Flow>) -> Result<Option<String>> {
        let mut reason = None;
        self.hook(|callback, run| {
            if let Flow::Stop(why) = call(callback, run)? {
                reason.get_or_insert(why);
            }
            Ok(())
        })?;
        Ok(reason)
    }
}

fn step_metrics(step: u64, done: &StepReport, lr: f64, progress: &RunProgress, started: Instant) -> StepMetrics {
    let seconds = started.elapsed().as_secs_f64();
    StepMetrics {
        step,
        reduced_train_loss: done.loss,
        lr,
        grad_norm: done.grad_norm,
        consumed_samples: progress.consumed_samples,
        seconds,
        tokens_per_second: done.tokens as f64 / seconds.max(1e-9),
        label_tokens: done.labels,
        zero_label_samples: done.zero_label_samples,
        text_only_microbatches: done.text_only_microbatches,
        skipped_steps: progress.skipped_steps,
        peak_memory_gib: super::memory::peak_gib(),
    }
}
