//! Parameter-efficient fine-tuning.

mod lora;
mod validate;

pub use lora::{DropoutPosition, LoRA, LoraInit, Quantization};

use lora::{CanonicalLoRA, DoRA};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

/// PEFT scheme; without one the model itself is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub enum Peft {
    /// Low-rank adapters.
    #[serde(rename = "vlm.LoRA")]
    LoRA(LoRA),
    /// Low-rank adapters, one for each linear: none is shared by the linears of a fused module.
    #[serde(rename = "llm.peft.CanonicalLoRA")]
    CanonicalLoRA(
        #[serde(deserialize_with = "lora_from::<_, CanonicalLoRA>")]
        #[schemars(with = "CanonicalLoRA")]
        LoRA,
    ),
    /// Low-rank adapters and a trained length for each row of the weights (DoRA).
    #[serde(rename = "llm.peft.DoRA")]
    DoRA(
        #[serde(deserialize_with = "lora_from::<_, DoRA>")]
        #[schemars(with = "DoRA")]
        LoRA,
    ),
}

impl Peft {
    /// Returns the LoRA settings, which every variant has.
    pub fn lora(&self) -> &LoRA {
        match self {
            Self::LoRA(lora) | Self::CanonicalLoRA(lora) | Self::DoRA(lora) => lora,
        }
    }

    /// Returns the LoRA settings, which every variant has.
    pub fn lora_mut(&mut self) -> &mut LoRA {
        match self {
            Self::LoRA(lora) | Self::CanonicalLoRA(lora) | Self::DoRA(lora) => lora,
        }
    }
}

/// Reads settings whose defaults are those of another scheme.
fn lora_from<'de, D: Deserializer<'de>, T: Deserialize<'de> + Into<LoRA>>(deserializer: D) -> Result<LoRA, D::Error> {
    T::deserialize(deserializer).map(Into::into)
}
