//! Parameter-efficient fine-tuning.

use crate::validate::{Problem, Validate, nonzero};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// PEFT scheme; without one the model itself is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub enum Peft {
    /// Low-rank adapters.
    #[serde(rename = "vlm.LoRA")]
    LoRA(LoRA),
}

impl Peft {
    /// Returns the LoRA settings, which every variant has.
    pub fn lora(&self) -> &LoRA {
        match self {
            Self::LoRA(lora) => lora,
        }
    }
}

/// `y = W x + (alpha / dim) B A dropout(x)`, with NeMo's defaults (`vlm.LoRA`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LoRA {
    /// Target modules of the adapters: last components (`linear_qkv`, `q_proj`) or wildcards on full names.
    pub target_modules: Vec<String>,
    /// Rank of the adapters.
    pub dim: usize,
    /// Numerator of the scaling factor `alpha / dim`.
    pub alpha: f64,
    /// Dropout probability on the adapters' input.
    pub dropout: f64,
    /// Freezes the base weights of the language model.
    pub freeze_language_model: bool,
    /// Freezes the vision encoder.
    pub freeze_vision_model: bool,
}

impl Default for LoRA {
    fn default() -> Self {
        Self {
            target_modules: ["linear_qkv", "linear_q", "linear_kv", "linear_proj", "linear_fc1", "linear_fc2"]
                .map(|module| format!("*.language_model.*.{module}"))
                .to_vec(),
            dim: 32,
            alpha: 32.0,
            dropout: 0.0,
            freeze_language_model: true,
            freeze_vision_model: false,
        }
    }
}

impl Validate for LoRA {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        nonzero(path, problems, &[("dim", self.dim as u64)]);
        if !(self.alpha.is_finite() && self.alpha > 0.0) {
            problems.push(Problem::error(
                format!("{path}.alpha"),
                format!("`alpha` is {}, it must be above 0", self.alpha),
            ));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            problems.push(Problem::error(
                format!("{path}.dropout"),
                format!("`dropout` is {}, it must be at least 0 and below 1", self.dropout),
            ));
        }
        if self.dropout > 0.0 && self.dropout < 1.0 {
            // To be equal in every layout, a mask must be a function of (seed, name, step, sample).
            problems.push(
                Problem::error(
                    format!("{path}.dropout"),
                    format!("`dropout` is {}, but this version does not support adapter dropout", self.dropout),
                )
                .help("set it to 0.0, NeMo's default"),
            );
        }
        for (index, target) in self
            .target_modules
            .iter()
            .enumerate()
            .filter(|(_, target)| target.parse::<f64>().is_ok())
        {
            let message = format!("`{target}` is a number, not the name of a module");
            let place = format!("{path}.target_modules[{index}]");
            problems
                .push(Problem::error(place, message).help("write a last component, such as linear_qkv, or a wildcard on the full name"));
        }
        if self.target_modules.is_empty() {
            problems.push(
                Problem::error(
                    format!("{path}.target_modules"),
                    "`target_modules` is empty: no adapter would be trained",
                )
                .help("name modules, for example [\"*.language_model.*.linear_qkv\"]"),
            );
        }
    }
}
