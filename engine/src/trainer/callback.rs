//! What takes part in a run beside the model: a hook for every phase.

use crate::checkpoint::RunProgress;
use crate::error::{EngineError, Result};
use neva_schemas::{Callback as CallbackConfig, EarlyStopping as EarlyStoppingConfig, Finetune, Problem, RunReport};
use neva_track::{StepMetrics, ValidationMetrics};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// What a callback sees of a run.
#[derive(Debug, Clone, Copy)]
pub struct RunView<'a> {
    /// The run as it was resolved.
    pub finetune: &'a Finetune,
    /// The run's folder.
    pub run_dir: &'a Path,
    /// How far it has come.
    pub progress: &'a RunProgress,
    /// Whether this is the rank that writes what all agree on.
    pub is_first: bool,
}

/// What a callback wants to happen next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flow {
    /// The run goes on.
    Continue,
    /// The run saves and ends, for this reason.
    Stop(String),
}

/// Something that is asked at every phase of a run, on every rank. An error ends the run.
///
/// Ranks differ in what they measure of time and memory, and in nothing else; where one of them stops, all do.
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

    /// The run is over, and did not fail.
    ///
    /// # Errors
    /// The run failed after all.
    fn on_train_end(&mut self, run: RunView<'_>, report: &RunReport) -> Result<()> {
        Ok(())
    }

    /// The run failed.
    fn on_failure(&mut self, run: RunView<'_>, error: &EngineError) {}

    /// What a checkpoint keeps of it.
    fn state(&self) -> Value {
        Value::Null
    }

    /// Takes up what [`Self::state`] gave before the run was interrupted.
    ///
    /// # Errors
    /// It is not such a state.
    fn restore(&mut self, state: &Value) -> Result<()> {
        Ok(())
    }
}

/// Makes a callback of its arguments, or says what is wrong with them.
type Make = Arc<dyn Fn(Value) -> Result<Box<dyn Callback>, String> + Send + Sync>;

/// The types that a rank program knows by name: built-in ones, and its own.
#[derive(Clone, Default)]
pub struct Registry {
    callbacks: BTreeMap<String, Make>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.callbacks.keys()).finish()
    }
}

impl Registry {
    /// What `neva-rank` knows.
    pub fn builtin() -> Self {
        Self::default()
    }

    /// Adds a callback: a recipe's `_target_` names it, and its fields are the arguments there.
    #[must_use]
    pub fn callback<C: Callback + DeserializeOwned + 'static>(mut self, name: impl Into<String>) -> Self {
        let make = |arguments: Value| {
            let callback: C = serde_json::from_value(arguments).map_err(|error| error.to_string())?;
            Ok(Box::new(callback) as Box<dyn Callback>)
        };
        self.callbacks.insert(name.into(), Arc::new(make));
        self
    }

    /// The callbacks of a run, in its order.
    ///
    /// # Errors
    /// One is not registered, or does not take its arguments: all of them are named.
    pub fn callbacks(&self, configs: &[CallbackConfig]) -> Result<Vec<Box<dyn Callback>>> {
        let mut problems = Vec::new();
        let mut callbacks = Vec::new();
        for (index, config) in configs.iter().enumerate() {
            let path = format!("finetune.trainer.callbacks[{index}]");
            match config {
                CallbackConfig::EarlyStopping(config) => callbacks.push(Box::new(EarlyStopping::new(config)) as Box<dyn Callback>),
                CallbackConfig::Custom(custom) => {
                    let mut arguments: Map<String, Value> = custom.0.clone();
                    arguments.shift_remove("_target_");
                    match self.callbacks.get(custom.target()) {
                        Some(make) => match make(Value::Object(arguments)) {
                            Ok(callback) => callbacks.push(callback),
                            Err(reason) => problems.push(Problem::error(path, format!("{}: {reason}", custom.target()))),
                        },
                        None => {
                            let known = self.callbacks.keys().cloned().collect::<Vec<_>>().join(", ");
                            let problem = Problem::error(
                                format!("{path}._target_"),
                                format!("this rank program has no callback `{}`", custom.target()),
                            );
                            problems.push(if known.is_empty() {
                                problem.help("NEVA_RANK names the program that has it")
                            } else {
                                problem.help(format!("it has {known}"))
                            });
                        }
                    }
                }
            }
        }
        if problems.is_empty() {
            Ok(callbacks)
        } else {
            Err(EngineError::Run(problems))
        }
    }
}

/// Ends the run when a metric no longer improves.
struct EarlyStopping {
    config: EarlyStoppingConfig,
    best: Option<f64>,
    waited: u64,
}

impl EarlyStopping {
    fn new(config: &EarlyStoppingConfig) -> Self {
        Self {
            config: config.clone(),
            best: None,
            waited: 0,
        }
    }

    fn look(&mut self, value: f64) -> Flow {
        let EarlyStoppingConfig {
            monitor,
            mode,
            patience,
            min_delta,
        } = &self.config;
        let improved = self.best.is_none_or(|best| mode.better(value, best) && (value - best).abs() > *min_delta);
        if improved && value.is_finite() {
            (self.best, self.waited) = (Some(value), 0);
            return Flow::Continue;
        }
        self.waited += 1;
        if self.waited < *patience {
            return Flow::Continue;
        }
        let best = self.best.map_or("never finite".into(), |best| format!("best {best:.4}"));
        Flow::Stop(format!("early stopping: `{monitor}` did not improve {patience} times in a row ({best})"))
    }
}

impl Callback for EarlyStopping {
    fn on_step_end(&mut self, _: RunView<'_>, metrics: &StepMetrics) -> Result<Flow> {
        Ok(match self.config.monitor.as_str() {
            "reduced_train_loss" => self.look(metrics.reduced_train_loss),
            "grad_norm" => self.look(metrics.grad_norm),
            _ => Flow::Continue,
        })
    }

    fn on_validation_end(&mut self, _: RunView<'_>, metrics: &ValidationMetrics) -> Result<Flow> {
        Ok(match self.config.monitor.as_str() {
            "val_loss" => self.look(metrics.val_loss),
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
