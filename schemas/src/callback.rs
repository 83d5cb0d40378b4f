//! Callbacks of a run.

use crate::validate::{Problem, Validate, at_least_0, nonzero};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A callback, called at every phase of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename = "Callback")]
pub enum CallbackConfig {
    /// Ends the run when a metric no longer improves.
    #[serde(rename = "nl.EarlyStopping")]
    EarlyStopping(EarlyStoppingConfig),
    /// A custom type of the rank program, registered under its `_target_`: `my_crate::Heartbeat`.
    Custom(CustomCallback),
}

/// Lightning's `EarlyStopping`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename = "EarlyStopping", deny_unknown_fields, default)]
pub struct EarlyStoppingConfig {
    /// Monitored metric: `val_loss`, checked after each validation, or `reduced_train_loss`, after each step.
    pub monitor: String,
    /// `min` if lower values are better, `max` if higher.
    pub mode: MetricMode,
    /// Number of checks without improvement after which training stops.
    pub patience: u64,
    /// Minimum change that counts as an improvement.
    pub min_delta: f64,
}

impl Default for EarlyStoppingConfig {
    fn default() -> Self {
        Self {
            monitor: "val_loss".into(),
            mode: MetricMode::Min,
            patience: 3,
            min_delta: 0.0,
        }
    }
}

/// Direction in which a metric improves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MetricMode {
    /// Lower is better.
    Min,
    /// Higher is better.
    Max,
}

impl MetricMode {
    /// Returns true if `a` is better than `b`.
    pub fn better(self, a: f64, b: f64) -> bool {
        match self {
            Self::Min => a < b,
            Self::Max => a > b,
        }
    }
}

/// A custom callback as written: its `_target_` and its own arguments.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CustomCallback(pub Map<String, Value>);

impl CustomCallback {
    /// Returns the name under which it is registered.
    pub fn target(&self) -> &str {
        self.0.get("_target_").and_then(Value::as_str).unwrap_or_default()
    }
}

/// Metrics that the trainer measures: the valid values of `monitor`.
pub const METRICS: &[&str] = &["val_loss", "reduced_train_loss", "grad_norm"];

/// Appends an error if `monitor` is not a metric.
pub(crate) fn validate_monitor(path: &str, monitor: &str, problems: &mut Vec<Problem>) {
    if !METRICS.contains(&monitor) {
        problems.push(
            Problem::error(format!("{path}.monitor"), format!("there is no metric {monitor:?}"))
                .help(format!("metrics are {}", METRICS.join(", "))),
        );
    }
}

impl Validate for CallbackConfig {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        match self {
            Self::EarlyStopping(stopping) => {
                validate_monitor(path, &stopping.monitor, problems);
                nonzero(path, problems, &[("patience", stopping.patience)]);
                at_least_0(path, problems, "min_delta", stopping.min_delta);
            }
            // Only the rank program knows whether it is registered. The `::` of its path tells a custom type from a
            // misspelt built-in one.
            Self::Custom(custom) if !custom.target().contains("::") => problems.push(
                Problem::error(format!("{path}._target_"), format!("there is no callback {:?}", custom.target()))
                    .help("built in is nl.EarlyStopping; an own type is named by its path, my_crate::MyCallback"),
            ),
            Self::Custom(_) => {}
        }
    }
}
