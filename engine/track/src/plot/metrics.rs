//! Lines of `metrics.jsonl` as series.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde_json::{Map, Value};

use crate::TrackError;

/// Values by step. `None` stands for one that was not a number, such as the loss of a step that overflowed.
pub type Series = BTreeMap<u64, Option<f64>>;

/// What a picture shows of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics {
    /// `reduced_train_loss`: mean cross entropy of the global batch.
    pub loss: Series,
    /// `val_loss`: mean cross entropy of a validation, at the step after which it ran.
    pub val_loss: Series,
    /// `lr`: learning rate.
    pub lr: Series,
    /// `grad_norm`: global L2 norm of the gradient before clipping.
    pub grad_norm: Series,
}

impl Metrics {
    /// Reads the text of a `metrics.jsonl`, which errors call `path`. Other keys are passed over, and so are
    /// lines that hold none of ours. A run that was resumed may hold a step twice: the later line counts, since
    /// training went on from it.
    ///
    /// # Errors
    /// A line that is not one of metrics, or no line at all.
    pub fn parse(text: &[u8], path: &Path) -> Result<Self, TrackError> {
        let mut metrics = Self::default();
        let lines = text.split(|byte| *byte == b'\n').enumerate();
        for (index, line) in lines.filter(|(_, line)| !line.trim_ascii().is_empty()) {
            metrics.add(line).map_err(|reason| TrackError::BrokenMetrics {
                path: path.to_owned(),
                line: index + 1,
                reason,
            })?;
        }
        if metrics.steps().is_empty() {
            return Err(TrackError::NoMetrics {
                path: path.to_owned(),
                reason: "it holds no metrics",
            });
        }
        Ok(metrics)
    }

    /// Steps with at least one value, missing ones among it.
    pub(super) fn steps(&self) -> BTreeSet<u64> {
        let Self {
            loss,
            val_loss,
            lr,
            grad_norm,
        } = self;
        [loss, val_loss, lr, grad_norm]
            .into_iter()
            .flat_map(BTreeMap::keys)
            .copied()
            .collect()
    }

    fn add(&mut self, line: &[u8]) -> Result<(), String> {
        let line: Map<String, Value> = serde_json::from_slice(line).map_err(|error| not_json(&error))?;
        let step = line.get("step").and_then(Value::as_u64).ok_or("`step` is not a whole number")?;
        let Self {
            loss,
            val_loss,
            lr,
            grad_norm,
        } = self;
        for (key, series) in [
            ("reduced_train_loss", loss),
            ("val_loss", val_loss),
            ("lr", lr),
            ("grad_norm", grad_norm),
        ] {
            let value = match line.get(key) {
                None => continue,
                // JSON has no NaN: it is written as null.
                Some(Value::Null) => None,
                Some(value) => Some(value.as_f64().ok_or_else(|| format!("`{key}` is not a number"))?),
            };
            series.insert(step, value);
        }
        Ok(())
    }
}

/// The error without its line, which is always the first: a line is read at a time.
fn not_json(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let reason = text.split(" at line ").next().unwrap_or_default();
    format!("column {}: {reason}", error.column())
}
