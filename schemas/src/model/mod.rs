//! Config of a model. Fields have Hugging Face's names (`LlavaConfig`, `LlamaConfig`, `CLIPVisionConfig`), so that a
//! `config.json` and a recipe can be compared field by field.

mod activation;
mod feature_layers;
mod language;
mod llava;
mod projector;
mod rope;
mod text;
mod text_presets;
mod text_rules;
mod vision;

pub use activation::Activation;
pub use feature_layers::FeatureLayers;
pub use language::LanguageModel;
pub use llava::{FeatureSelect, LlavaModel};
pub use projector::ProjectorType;
pub use rope::{RopeScaling, RopeType};
pub use text::{LayerType, TextConfig, TextModelType};
pub use vision::{ImageDefaults, VisionConfig, VisionModelType, VisionNorm};

use crate::validate::{Problem, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The model to train.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[expect(clippy::large_enum_variant, reason = "a run has one model, so its size does not matter")]
pub enum Model {
    /// Vision encoder, projector and language model: those of LLaVA-1.5 by default.
    #[serde(rename = "vlm.LlavaModel")]
    Llava(LlavaModel),
    /// A language model alone, of the family that `config.model_type` names.
    #[serde(rename = "llm.GPTModel")]
    Gpt(LanguageModel),
    /// Llama 2, Llama 3 or Vicuna alone.
    #[serde(rename = "llm.LlamaModel")]
    Llama(LanguageModel),
    /// Mistral alone.
    #[serde(rename = "llm.MistralModel")]
    Mistral(LanguageModel),
    /// Nemotron alone.
    #[serde(rename = "llm.NemotronModel")]
    Nemotron(LanguageModel),
    /// Qwen2 alone.
    #[serde(rename = "llm.Qwen2Model")]
    Qwen2(LanguageModel),
}

impl Model {
    /// Returns the LLaVA config; `None` for a language model alone.
    pub fn as_llava(&self) -> Option<&LlavaModel> {
        match self {
            Self::Llava(model) => Some(model),
            _ => None,
        }
    }

    /// Returns the LLaVA config for changes; `None` for a language model alone.
    pub fn as_llava_mut(&mut self) -> Option<&mut LlavaModel> {
        match self {
            Self::Llava(model) => Some(model),
            _ => None,
        }
    }

    /// Removes the folders that weights come from.
    pub fn clear_pretrained(&mut self) {
        if let Some(model) = self.as_llava_mut() {
            model.from_pretrained = None;
            model.language_model_from_pretrained = None;
            model.vision_model_from_pretrained = None;
            model.vision_projection_from_pretrained = None;
        } else if let Some(model) = self.as_language_mut() {
            model.from_pretrained = None;
        }
    }

    /// Returns the same model with all defaults and derived values explicit: models that compute the same are equal.
    #[must_use]
    pub fn explicit(&self) -> Self {
        let (mut model, family) = (self.clone(), self.language_family());
        if let Some(model) = model.as_llava_mut() {
            model.text_config = model.text_config.explicit();
            model.vision_config = model.vision_config.explicit();
            model.projector_type = model.projector_type.explicit();
        } else if let Some(model) = model.as_language_mut() {
            model.config = model.text_config(family).explicit();
        }
        model
    }
}

impl Validate for Model {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        match self {
            Self::Llava(model) => model.validate(path, problems),
            Self::Gpt(model) | Self::Llama(model) | Self::Mistral(model) | Self::Nemotron(model) | Self::Qwen2(model) => {
                self.validate_language(model, path, problems);
            }
        }
    }
}

/// Appends an error if `value` is not a multiple of `divisor`; both are given with their names.
fn divides(path: &str, value: (&str, usize), divisor: (&str, usize), problems: &mut Vec<Problem>) {
    let ((name, value), (by, divisor)) = (value, divisor);
    if divisor != 0 && !value.is_multiple_of(divisor) {
        problems.push(Problem::error(
            format!("{path}.{name}"),
            format!("`{name}` {value} is not a multiple of `{by}` {divisor}"),
        ));
    }
}
