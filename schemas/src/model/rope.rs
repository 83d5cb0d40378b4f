//! Scaling of rotary position embedding for sequences longer than those of the pre-training.

use crate::validate::{Problem, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Kind of scaling, in Hugging Face's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RopeType {
    /// Every frequency is divided by `factor` (position interpolation, arXiv:2306.15595).
    Linear,
    /// Low frequencies are divided by `factor`, high ones are kept (Llama 3.1).
    Llama3,
}

/// Scaling of the rotary frequencies, with the fields of `transformers`' `rope_scaling`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RopeScaling {
    /// Kind of scaling.
    pub rope_type: RopeType,
    /// Divisor of the scaled frequencies, at least 1.
    pub factor: f64,
    /// `llama3`: wavelengths longer than `original_max_position_embeddings / low_freq_factor` are scaled by `factor`.
    #[serde(default)]
    pub low_freq_factor: Option<f64>,
    /// `llama3`: wavelengths shorter than `original_max_position_embeddings / high_freq_factor` are not scaled.
    #[serde(default)]
    pub high_freq_factor: Option<f64>,
    /// `llama3`: longest sequence of the pre-training.
    #[serde(default)]
    pub original_max_position_embeddings: Option<usize>,
}

impl Validate for RopeScaling {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        if !(self.factor.is_finite() && self.factor >= 1.0) {
            let problem = format!("`factor` {:?} is not a number of at least 1", self.factor);
            problems.push(Problem::error(format!("{path}.factor"), problem));
        }
        let own = [
            ("low_freq_factor", self.low_freq_factor),
            ("high_freq_factor", self.high_freq_factor),
            (
                "original_max_position_embeddings",
                self.original_max_position_embeddings.map(|size| size as f64),
            ),
        ];
        for (name, value) in own {
            let problem = match (self.rope_type, value) {
                (RopeType::Linear, Some(_)) => format!("`{name}` has no effect with rope_type linear; remove it"),
                (RopeType::Llama3, None) => format!("`{name}` is missing; rope_type llama3 needs it"),
                (RopeType::Llama3, Some(value)) if !(value.is_finite() && value > 0.0) => {
                    format!("`{name}` {value:?} is not greater than 0")
                }
                (RopeType::Llama3, Some(_)) | (RopeType::Linear, None) => continue,
            };
            problems.push(Problem::error(format!("{path}.{name}"), problem));
        }
        if let (Some(low), Some(high)) = (self.low_freq_factor, self.high_freq_factor)
            && low >= high
        {
            let problem = format!("`high_freq_factor` {high:?} is not greater than `low_freq_factor` {low:?}");
            problems.push(Problem::error(format!("{path}.high_freq_factor"), problem));
        }
    }
}
