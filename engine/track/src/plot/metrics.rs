//! Parses `metrics.jsonl` into series.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use crate::TrackError;

/// Values by step. `None` is a missing value: the loss of a step that overflowed or had no label.
pub type Series = BTreeMap<u64, Option<f64>>;

/// Plotted metrics of a run.
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
    /// Parses the text of a `metrics.jsonl`, named `path` in errors. Other keys, and lines without known keys, are skipped. A
    /// resumed run may contain a step twice: the later line counts, since training continued from it. An incomplete last line
    /// is skipped.
    ///
    /// # Errors
    /// A line is invalid, or there is none.
    pub fn parse(text: &[u8], path: &Path) -> Result<Self, TrackError> {
        let mut metrics = Self::default();
        // A killed or active run may leave an incomplete last line.
        let end = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let text = if is_incomplete(&text[end..]) { &text[..end] } else { text };
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

    /// Returns the steps with at least one value, even if it is missing.
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
                // Not measured; or NaN, which JSON does not have.
                Some(Value::Null) => None,
                Some(value) => Some(value.as_f64().ok_or_else(|| format!("`{key}` is not a number"))?),
            };
            series.insert(step, value);
        }
        Ok(())
    }
}

/// Returns true if the JSON of a line is incomplete.
fn is_incomplete(line: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(line).is_err_and(|error| error.is_eof())
}

/// Returns the error without its line number, which is always 1.
fn not_json(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let reason = text.split(" at line ").next().unwrap_or_default();
    format!("column {}: {reason}", error.column())
}
