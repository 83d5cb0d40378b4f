//! What takes part in a run beside the model.

use crate::optim::at_least_0;
use crate::validate::{Problem, Validate, nonzero};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Something that is asked at every phase of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub enum Callback {
    /// Ends the run when a metric no longer improves.
    #[serde(rename = "nl.EarlyStopping")]
    EarlyStopping(EarlyStopping),
    /// A type of the rank program's own, registered under its `_target_`: `my_crate::Heartbeat`.
    Custom(CustomCallback),
}

/// Lightning's `EarlyStopping`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EarlyStopping {
    /// The metric: `val_loss`, looked at after each validation, or `reduced_train_loss`, after each step.
    pub monitor: String,
    /// Whether less or more is better.
    pub mode: MetricMode,
    /// Looks without improvement that end the run.
    pub patience: u64,
    /// What counts as an improvement.
    pub min_delta: f64,
}

impl Default for EarlyStopping {
    fn default() -> Self {
        Self {
            monitor: "val_loss".into(),
            mode: MetricMode::Min,
            patience: 3,
            min_delta: 0.0,
        }
    }
}

/// Whether less or more of a metric is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MetricMode {
    /// Less is better.
    Min,
    /// More is better.
    Max,
}

impl MetricMode {
    /// Whether `a` is better than `b`.
    pub fn better(self, a: f64, b: f64) -> bool {
        match self {
            Self::Min => a < b,
            Self::Max => a > b,
        }
    }
}

/// An own callback as it is written: its `_target_`, and whatever arguments it takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CustomCallback(pub Map<String, Value>);

impl CustomCallback {
    /// The name that it is registered under.
    pub fn target(&self) -> &str {
        self.0.get("_target_").and_then(Value::as_str).unwrap_or_default()
    }
}

/// Metrics that the trainer measures: what `monitor` may name.
pub const METRICS: &[&str] = &["val_loss", "reduced_train_loss", "grad_norm"];

/// Appends an error where `monitor` names no metric.
pub(crate) fn validate_monitor(path: &str, monitor: &str, problems: &mut Vec<Problem>) {
    if !METRICS.contains(&monitor) {
        problems.push(
            Problem::error(format!("{path}.monitor"), format!("there is no metric {monitor:?}"))
                .help(format!("metrics are {}", METRICS.join(", "))),
        );
    }
}

impl Validate for Callback {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        match self {
            Self::EarlyStopping(stopping) => {
                validate_monitor(path, &stopping.monitor, problems);
                nonzero(path, problems, &[("patience", stopping.patience)]);
                at_least_0(path, problems, "min_delta", stopping.min_delta);
            }
            // Whether it is registered, only the rank program knows. A misspelt built-in one is told from an own
            // type by the `::` of the latter's path.
            Self::Custom(custom) if !custom.target().contains("::") => problems.push(
                Problem::error(format!("{path}._target_"), format!("there is no callback {:?}", custom.target()))
                    .help("built in is nl.EarlyStopping; an own type is named by its path, my_crate::MyCallback"),
            ),
            Self::Custom(_) => {}
        }
    }
}
