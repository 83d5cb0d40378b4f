//! Callbacks: hooks for every phase of a run.

use crate::checkpoint::RunProgress;
use crate::error::{EngineError, Result};
use neva_schemas::{EarlyStoppingConfig, Finetune, RunReport};
use neva_track::{StepMetrics, ValidationMetrics};
use serde_json::{Value, json};
use std::path::Path;

/// A callback's view of a run.
#[derive(Debug, Clone, Copy)]
pub struct RunView<'a> {
    /// The resolved run.
    pub finetune: &'a Finetune,
    /// The run's folder.
    pub run_dir: &'a Path,
    /// Its progress.
    pub progress: &'a RunProgress,
    /// True on the first rank, which writes the records of the run.
    pub is_first: bool,
}

/// A callback's decision about the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flow {
    /// The run continues.
    Continue,
    /// The run saves and ends for this reason.
    Stop(String),
}

/// Hooks that every rank calls at every phase of a run. An error ends the run.
///
/// Ranks differ only in measured time and memory. If a callback stops one rank, all ranks stop.
#[expect(unused_variables, reason = "the names document the arguments of hooks that do nothing")]
pub trait Callback: Send {
    /// Everything is loaded; the first step comes next.
    ///
    /// # Errors
    /// The run must not start.
    fn on_train_start(&mut self, run: RunView<'_>) -> Result<()> {
        Ok(())
    }

    /// A step begins.
    ///
    /// # Errors
    /// The run must end.
    fn on_step_start(&mut self, run: RunView<'_>, step: u64) -> Result<()> {
        Ok(())
    }

    /// A step is done.
    ///
    /// # Errors
    /// The run must end.
    fn on_step_end(&mut self, run: RunView<'_>, metrics: &StepMetrics) -> Result<Flow> {
        Ok(Flow::Continue)
    }

    /// A validation begins.
    ///
    /// # Errors
    /// The run must end.
    fn on_validation_start(&mut self, run: RunView<'_>) -> Result<()> {
        Ok(())
    }

    /// A validation is done.
    ///
    /// # Errors
    /// The run must end.
    fn on_validation_end(&mut self, run: RunView<'_>, metrics: &ValidationMetrics) -> Result<Flow> {
        Ok(Flow::Continue)
    }

    /// A checkpoint is whole and on disk.
    ///
    /// # Errors
    /// The run must end.
    fn on_checkpoint(&mut self, run: RunView<'_>, path: &Path) -> Result<()> {
        Ok(())
    }

    /// The run ended without a failure.
    ///
    /// # Errors
    /// The run failed.
    fn on_train_end(&mut self, run: RunView<'_>, report: &RunReport) -> Result<()> {
        Ok(())
    }

    /// The run failed.
    fn on_failure(&mut self, run: RunView<'_>, error: &EngineError) {}

    /// Returns the state that a checkpoint stores.
    fn state(&self) -> Value {
        Value::Null
    }

    /// Restores the state that [`Self::state`] returned before the run was interrupted.
    ///
    /// # Errors
    /// `state` is not such a state.
    fn restore(&mut self, state: &Value) -> Result<()> {
        Ok(())
    }
}

/// Ends the run when a metric no longer improves.
pub(super) struct EarlyStopping {
    config: EarlyStoppingConfig,
    best: Option<f64>,
    waited: u64,
}

impl EarlyStopping {
    pub(super) fn new(config: &EarlyStoppingConfig) -> Self {
        Self {
            config: config.clone(),
            best: None,
            waited: 0,
        }
    }

    /// Compares a value with the best one. A missing value is ignored.
    fn observe(&mut self, value: Option<f64>) -> Flow {
        let Some(value) = value else { return Flow::Continue };
        let EarlyStoppingConfig {
            monitor,
            mode,
            patience,
            min_delta,
        } = &self.config;
        let improved = self
            .best
            .is_none_or(|best| mode.better(value, best) && (value - best).abs() > *min_delta);
        if improved && value.is_finite() {
            (self.best, self.waited) = (Some(value), 0);
            return Flow::Continue;
        }
        self.waited += 1;
        if self.waited < *patience {
            return Flow::Continue;
        }
        let best = self.best.map_or("never finite".into(), |best| format!("best {best:.4}"));
        Flow::Stop(format!(
            "early stopping: `{monitor}` did not improve {patience} times in a row ({best})"
        ))
    }
}

impl Callback for EarlyStopping {
    fn on_step_end(&mut self, _: RunView<'_>, metrics: &StepMetrics) -> Result<Flow> {
        Ok(match self.config.monitor.as_str() {
            "reduced_train_loss" => self.observe(metrics.reduced_train_loss),
            "grad_norm" => self.observe(metrics.grad_norm),
            _ => Flow::Continue,
        })
    }

    fn on_validation_end(&mut self, _: RunView<'_>, metrics: &ValidationMetrics) -> Result<Flow> {
        Ok(match self.config.monitor.as_str() {
            "val_loss" => self.observe(metrics.val_loss),
            _ => Flow::Continue,
        })
    }

    fn state(&self) -> Value {
        json!({ "best": self.best, "waited": self.waited })
    }

    fn restore(&mut self, state: &Value) -> Result<()> {
        self.best = state.get("best").and_then(Value::as_f64);
        self.waited = state.get("waited").and_then(Value::as_u64).unwrap_or_default();
        Ok(())
    }
}
