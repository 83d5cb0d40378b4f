//! The training loop of a run: steps, validations and checkpoints. `start.rs` prepares it.

use super::batches::{Batching, TrainBatches};
use super::callback::{Callback, Flow, RunView};
use super::context::{Progress, RunContext};
use super::dataset::RunData;
use super::labels::LabelWarnings;
use super::profiled_steps::ProfiledSteps;
use super::records::Records;
use super::step::Trainer;
use super::stop::{Clocks, LocalStatus, Stop, StopRequest};
use crate::checkpoint::{BaseReference, HostMemory, RunProgress, Saving};
use crate::comm::{all_succeed, decide_on_first_rank};
use crate::error::{EngineError, Result};
use crate::profile::phase;
use neva_data::RowStream;
use neva_schemas::{LaunchPlan, Run, RunReport};
use neva_track::Outcome;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Trains as one rank until the run ends, or a stop is requested.
///
/// # Errors
/// Any failure of the run. The last checkpoint is whole.
pub fn fit(plan: &LaunchPlan, context: RunContext<'_>, at: &Progress) -> Result<RunReport> {
    let mut fit = Fit::set_up(plan, context)?;
    match fit.train(at) {
        Ok(report) => {
            fit.finish_profile()?;
            let outcome = if report.stopped.is_some() {
                Outcome::Stopped
            } else {
                Outcome::Finished
            };
            let effects = fit.trainer.effects()?;
            // Rank 0 may still be writing: a run ends once its records are on disk.
            decide_on_first_rank(fit.trainer.mesh(), || fit.records.finish(outcome, &report, &effects))?;
            Ok(report)
        }
        Err(error) => {
            fit.write_failed_profile();
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

/// State of the training loop.
pub(super) struct Fit<'a> {
    pub(super) trainer: Trainer,
    pub(super) batches: TrainBatches,
    pub(super) callbacks: Vec<Box<dyn Callback>>,
    pub(super) records: Records,
    pub(super) clocks: Clocks,
    pub(super) stop: &'a StopRequest,
    pub(super) data: RunData,
    pub(super) batching: Batching,
    pub(super) label_warnings: LabelWarnings,
    pub(super) rows: Arc<dyn RowStream>,
    /// Packed rows of the validation data.
    pub(super) val_rows: Option<Arc<dyn RowStream>>,
    pub(super) base: BaseReference,
    pub(super) state: State<'a>,
    pub(super) last_saved: Option<u64>,
    /// The save in progress.
    pub(super) saving: Option<Saving>,
    /// Host memory for its copies.
    pub(super) memory: HostMemory,
    /// The steps of the profile.
    pub(super) profiled: ProfiledSteps,
}

/// The part of the state that callbacks see.
pub(super) struct State<'a> {
    pub(super) run: &'a Run,
    pub(super) run_dir: PathBuf,
    pub(super) progress: RunProgress,
    pub(super) is_first: bool,
    pub(super) report: RunReport,
}

impl State<'_> {
    pub(super) fn view(&self) -> RunView<'_> {
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
            // A stop request is checked before the first step, too: it may have come while weights were loaded.
            let done = self.state.progress.steps_done;
            let over = done >= self.state.progress.total_steps;
            // Data are fetched before the agreement, so that all ranks can still save if one of them cannot read its data.
            let started = Instant::now();
            let profiler = self.profiler().clone();
            let began = profiler.begin();
            let fetched = match over || self.stop.is_requested() {
                true => None,
                false => {
                    let _data = profiler.span(phase::DATA);
                    Some(self.batches.next_step())
                }
            };
            let waited = started.elapsed();
            let status = LocalStatus {
                save_done: self.saving.as_ref().is_some_and(Saving::is_done),
                data_failed: fetched.as_ref().is_some_and(Result::is_err),
            };
            let agreed = {
                let _agree = profiler.span(phase::AGREE);
                self.clocks.agree(self.stop, rule.as_deref(), status, self.trainer.mesh())?
            };
            if agreed.save_done {
                self.finish_save()?;
            }
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
            if agreed.data_failed {
                let error = all_succeed(self.trainer.mesh(), fetched.transpose().map(drop)).err();
                let error = error.unwrap_or_else(|| EngineError::Bug("no rank failed to read its data".into()));
                return Err(self.save_before(error));
            }
            let microbatches = fetched.transpose()?.unwrap_or_default();
            rule = self.step(done, &microbatches, (started, waited))?;
            let done = done + 1;
            self.state.progress.finished = done == self.state.progress.total_steps;
            if run
                .finetune
                .trainer
                .val_check_interval
                .is_some_and(|every| done.is_multiple_of(every))
            {
                let _validate = profiler.span(phase::VALIDATE);
                rule = self.validate()?.or(rule);
            }
            let due = ckpt.every_n_train_steps.is_some_and(|every| done.is_multiple_of(every));
            if due || (self.state.progress.finished && ckpt.save_on_train_end) {
                self.save_unless_saved()?;
            }
            self.profile_step(began, done - 1)?;
        }
        self.finish_save()?;
        let report = self.state.report.clone();
        self.hook(|callback, run| callback.on_train_end(run, &report))?;
        Ok(report)
    }

    pub(super) fn hook(&mut self, mut call: impl FnMut(&mut dyn Callback, RunView<'_>) -> Result<()>) -> Result<()> {
        let Self { callbacks, state, .. } = self;
        callbacks.iter_mut().try_for_each(|callback| call(&mut **callback, state.view()))
    }

    /// Calls every callback. Returns the first reason to stop.
    pub(super) fn ask(&mut self, mut call: impl FnMut(&mut dyn Callback, RunView<'_>) -> Result<Flow>) -> Result<Option<String>> {
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
