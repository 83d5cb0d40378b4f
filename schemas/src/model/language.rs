//! Language models that are trained alone, on text.

use super::{Model, TextConfig, TextModelType};
use crate::validate::{Problem, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A language model alone. Its weights come from `from_pretrained` or `resume.restore_config`: a Hugging Face folder of such a
/// model, or a checkpoint of this program.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LanguageModel {
    /// The language model. `model_type` is optional if the target names the family.
    pub config: TextConfig,
    /// Weights and sizes: a Hugging Face folder, a checkpoint of this program, `nemo://ORG/NAME` in the model cache, or
    /// `hf://ORG/NAME[@REVISION]` in the hub. A size in a file or `--set` overrides that of its `config.json`.
    pub from_pretrained: Option<String>,
}

impl LanguageModel {
    /// Returns the config with an explicit family; `family` is that of the target.
    pub(crate) fn text_config(&self, family: Option<TextModelType>) -> TextConfig {
        let model_type = self.config.model_type.clone().or(family);
        TextConfig {
            model_type: Some(model_type.unwrap_or(TextModelType::Llama)),
            ..self.config.clone()
        }
    }
}

impl Model {
    /// Returns a language model alone, under the target of its family.
    pub fn language(config: TextConfig) -> Self {
        let target = match config.family() {
            TextModelType::Llama => Self::Llama,
            TextModelType::Mistral => Self::Mistral,
            TextModelType::Nemotron => Self::Nemotron,
            TextModelType::Qwen2 => Self::Qwen2,
            TextModelType::Custom(_) => Self::Gpt,
        };
        target(LanguageModel {
            config,
            from_pretrained: None,
        })
    }

    /// Returns the language model; `None` for a LLaVA.
    pub fn as_language(&self) -> Option<&LanguageModel> {
        match self {
            Self::Llava(_) => None,
            Self::Gpt(model) | Self::Llama(model) | Self::Mistral(model) | Self::Nemotron(model) | Self::Qwen2(model) => Some(model),
        }
    }

    /// Returns the language model for changes; `None` for a LLaVA.
    pub fn as_language_mut(&mut self) -> Option<&mut LanguageModel> {
        match self {
            Self::Llava(_) => None,
            Self::Gpt(model) | Self::Llama(model) | Self::Mistral(model) | Self::Nemotron(model) | Self::Qwen2(model) => Some(model),
        }
    }

    /// Returns this model under the target of `wanted`; `None` if it is a model of another kind or family.
    #[must_use]
    pub fn under_target_of(&self, wanted: &Self) -> Option<Self> {
        if let (Self::Llava(_), Self::Llava(_)) = (self, wanted) {
            return Some(self.clone());
        }
        let config = self.as_language()?.text_config(self.language_family());
        if wanted.language_family().is_some_and(|family| family != *config.family()) {
            return None;
        }
        let mut model = wanted.clone();
        model.as_language_mut()?.config = config;
        Some(model)
    }

    /// Returns the family that the target names; `None` if the config names it.
    pub(crate) fn language_family(&self) -> Option<TextModelType> {
        match self {
            Self::Llava(_) | Self::Gpt(_) => None,
            Self::Llama(_) => Some(TextModelType::Llama),
            Self::Mistral(_) => Some(TextModelType::Mistral),
            Self::Nemotron(_) => Some(TextModelType::Nemotron),
            Self::Qwen2(_) => Some(TextModelType::Qwen2),
        }
    }

    /// Returns the name of the target in a recipe.
    pub fn target(&self) -> &'static str {
        match self {
            Self::Llava(_) => "vlm.LlavaModel",
            Self::Gpt(_) => "llm.GPTModel",
            Self::Llama(_) => "llm.LlamaModel",
            Self::Mistral(_) => "llm.MistralModel",
            Self::Nemotron(_) => "llm.NemotronModel",
            Self::Qwen2(_) => "llm.Qwen2Model",
        }
    }

    pub(super) fn validate_language(&self, model: &LanguageModel, path: &str, problems: &mut Vec<Problem>) {
        let family = self.language_family();
        if model.from_pretrained.as_ref().is_some_and(String::is_empty) {
            problems.push(
                Problem::error(format!("{path}.from_pretrained"), "`from_pretrained` is empty")
                    .help("name a folder, or set it to null for fresh weights"),
            );
        }
        model.text_config(family.clone()).validate(&format!("{path}.config"), problems);
        let (Some(family), Some(written)) = (family, &model.config.model_type) else {
            return;
        };
        if family != *written {
            let message = format!("`model_type` is {}, but {} is a {}", written.name(), self.target(), family.name());
            problems.push(
                Problem::error(format!("{path}.config.model_type"), message)
                    .help("set it to null, or use llm.GPTModel, whose family is its `model_type`"),
            );
        }
    }
}
