//! Decoder-only language models.

use super::activation::Activation;
use super::rope::RopeScaling;
use crate::custom_family::CustomFamily;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Family of the language model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub enum TextModelType {
    /// `transformers.LlamaForCausalLM`: Llama 2, Llama 3, Vicuna.
    #[serde(rename = "llama")]
    Llama,
    /// `transformers.MistralForCausalLM`.
    #[serde(rename = "mistral")]
    Mistral,
    /// `transformers.NemotronForCausalLM`.
    #[serde(rename = "nemotron")]
    Nemotron,
    /// `transformers.Qwen2ForCausalLM`.
    #[serde(rename = "qwen2")]
    Qwen2,
    /// A custom family of the rank program, registered under its `_target_`: `my_crate::MyDecoder`.
    Custom(CustomFamily),
}

impl TextModelType {
    /// Built-in families.
    pub const BUILTIN: [Self; 4] = [Self::Llama, Self::Mistral, Self::Nemotron, Self::Qwen2];

    /// Returns the name of the family: Hugging Face's `model_type`, or the path of a custom one.
    pub fn name(&self) -> &str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Nemotron => "nemotron",
            Self::Qwen2 => "qwen2",
            Self::Custom(family) => family.target(),
        }
    }
}

/// Attention of one layer, in Hugging Face's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LayerType {
    /// A query attends to all earlier positions.
    FullAttention,
    /// A query attends to itself and the `sliding_window - 1` positions before it.
    SlidingAttention,
}

/// A decoder-only language model, with the field names of `transformers.LlamaConfig` and of the other families' configs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TextConfig {
    /// Family; `null` means that of the model's target: `llama` in `vlm.LlavaModel`, `mistral` in `llm.MistralModel`.
    pub model_type: Option<TextModelType>,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Number of decoder layers.
    pub num_hidden_layers: usize,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key and value heads.
    pub num_key_value_heads: usize,
    /// Width of a head; `null` means `hidden_size / num_attention_heads`.
    pub head_dim: Option<usize>,
    /// Activation of the MLP; `null` means the family's: `relu2` for Nemotron, `silu` for the others.
    pub hidden_act: Option<Activation>,
    /// Adds biases to the query, key, value and output projections (Llama, Nemotron). Qwen2 always has the first three.
    pub attention_bias: bool,
    /// Adds biases to the MLP (Llama, Nemotron).
    pub mlp_bias: bool,
    /// Epsilon of RMSNorm.
    pub rms_norm_eps: f64,
    /// Epsilon of Nemotron's LayerNorm; `null` means 1e-5.
    pub norm_eps: Option<f64>,
    /// Base of the rotary angles.
    pub rope_theta: f64,
    /// Scaling of the rotary frequencies; `null` for none.
    pub rope_scaling: Option<RopeScaling>,
    /// Fraction of each head that is rotated (Nemotron); `null` means the family's: 0.5 for Nemotron, 1 for the others.
    pub partial_rotary_factor: Option<f64>,
    /// Number of positions that a query of a windowed layer attends to, itself included (Mistral, Qwen2); `null` for no
    /// window.
    pub sliding_window: Option<usize>,
    /// Qwen2: uses `sliding_window`; `null` means false.
    pub use_sliding_window: Option<bool>,
    /// Qwen2: first layer with a window; `null` means 28.
    pub max_window_layers: Option<usize>,
    /// Qwen2: attention of each layer; `null` derives it from the three fields above.
    pub layer_types: Option<Vec<LayerType>>,
    /// Maximum sequence length of the model.
    pub max_position_embeddings: usize,
    /// Shares the embedding's weight with the head.
    pub tie_word_embeddings: bool,
    /// Standard deviation of initial weights.
    pub initializer_range: f64,
}

impl Default for TextConfig {
    /// Llama-2-7B with LLaVA-1.5's vocabulary of 32064.
    fn default() -> Self {
        Self {
            model_type: None,
            vocab_size: 32064,
            hidden_size: 4096,
            intermediate_size: 11008,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: 32,
            head_dim: None,
            hidden_act: None,
            attention_bias: false,
            mlp_bias: false,
            rms_norm_eps: 1e-5,
            norm_eps: None,
            rope_theta: 10000.0,
            rope_scaling: None,
            partial_rotary_factor: None,
            sliding_window: None,
            use_sliding_window: None,
            max_window_layers: None,
            layer_types: None,
            max_position_embeddings: 4096,
            tie_word_embeddings: false,
            initializer_range: 0.02,
        }
    }
}

impl TextConfig {
    /// Default of [`Self::norm_eps`].
    const NORM_EPS: f64 = 1e-5;
    /// Default of [`Self::max_window_layers`].
    const MAX_WINDOW_LAYERS: usize = 28;

    /// Returns the family.
    pub fn family(&self) -> &TextModelType {
        self.model_type.as_ref().unwrap_or(&TextModelType::Llama)
    }

    /// Returns the width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    /// Returns the activation of the MLP.
    pub fn activation(&self) -> Activation {
        self.hidden_act.unwrap_or(match self.family() {
            TextModelType::Nemotron => Activation::Relu2,
            _ => Activation::Silu,
        })
    }

    /// Returns the epsilon of the norms.
    pub fn eps(&self) -> f64 {
        match self.family() {
            TextModelType::Nemotron => self.norm_eps.unwrap_or(Self::NORM_EPS),
            _ => self.rms_norm_eps,
        }
    }

    /// Returns the fraction of each head that is rotated.
    pub fn rotary_factor(&self) -> f64 {
        self.partial_rotary_factor.unwrap_or(match self.family() {
            TextModelType::Nemotron => 0.5,
            _ => 1.0,
        })
    }

    /// Returns the number of leading dims of each head that are rotated.
    pub fn rotary_dim(&self) -> usize {
        (self.head_dim() as f64 * self.rotary_factor()) as usize
    }

    /// Returns the number of positions that a query of `layer` attends to, itself included; `None` for all earlier ones.
    pub fn window(&self, layer: usize) -> Option<usize> {
        let window = self.sliding_window?;
        let windowed = match (&self.layer_types, self.family()) {
            (Some(types), _) => types.get(layer) == Some(&LayerType::SlidingAttention),
            (None, TextModelType::Qwen2) => {
                self.use_sliding_window == Some(true) && layer >= self.max_window_layers.unwrap_or(Self::MAX_WINDOW_LAYERS)
            }
            (None, _) => true,
        };
        windowed.then_some(window)
    }

    /// Returns the same config with all defaults and derived values explicit: configs that compute the same are equal.
    #[must_use]
    pub fn explicit(&self) -> Self {
        let nemotron = self.family() == &TextModelType::Nemotron;
        // Another check rejects an unrealistic number of layers.
        let windows: Vec<_> = (0..self.num_hidden_layers.min(1 << 16)).map(|layer| self.window(layer)).collect();
        let windowed = windows.iter().any(Option::is_some);
        let every = windows.iter().all(Option::is_some) && self.family() != &TextModelType::Qwen2;
        let types = windows.iter().map(|window| match window {
            Some(_) => LayerType::SlidingAttention,
            None => LayerType::FullAttention,
        });
        Self {
            model_type: Some(self.family().clone()),
            head_dim: Some(self.head_dim()),
            hidden_act: Some(self.activation()),
            norm_eps: nemotron.then(|| self.eps()),
            partial_rotary_factor: Some(self.rotary_factor()),
            sliding_window: self.sliding_window.filter(|_| windowed),
            use_sliding_window: None,
            max_window_layers: None,
            layer_types: (windowed && !every).then(|| types.collect()),
            ..self.clone()
        }
    }
}
