//! What a NeVA model is. Fields carry Hugging Face's names (`LlavaConfig`, `LlamaConfig`,
//! `CLIPVisionConfig`), so that a `config.json` and a recipe can be compared word for word.

use crate::validate::{Problem, Validate, nonzero};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The model to train.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub enum Model {
    /// LLaVA-1.5: CLIP vision encoder, two-layer projector, Llama language model.
    #[serde(rename = "vlm.LlavaModel")]
    Llava(LlavaModel),
}

impl Model {
    /// The LLaVA description that every variant has today.
    pub fn llava(&self) -> &LlavaModel {
        match self {
            Self::Llava(model) => model,
        }
    }

    /// Mutable access to the LLaVA description.
    pub fn llava_mut(&mut self) -> &mut LlavaModel {
        match self {
            Self::Llava(model) => model,
        }
    }
}

/// LLaVA-1.5, in the words of `transformers.LlavaConfig`, plus what stays frozen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LlavaModel {
    /// The language model.
    pub text_config: TextConfig,
    /// The vision encoder.
    pub vision_config: VisionConfig,
    /// Id of `<image>` in the tokenizer's vocabulary.
    pub image_token_index: i64,
    /// Hidden state handed to the projector: 0 is the embedding's output, negative counts from the end.
    pub vision_feature_layer: i64,
    /// `default` drops the class token, `full` keeps it.
    pub vision_feature_select_strategy: FeatureSelect,
    /// The language model gets no gradient.
    pub freeze_language_model: bool,
    /// The vision encoder gets no gradient.
    pub freeze_vision_model: bool,
    /// The projector gets no gradient.
    pub freeze_vision_projection: bool,
}

impl Default for LlavaModel {
    fn default() -> Self {
        Self {
            text_config: TextConfig::default(),
            vision_config: VisionConfig::default(),
            image_token_index: 32000,
            vision_feature_layer: -2,
            vision_feature_select_strategy: FeatureSelect::Default,
            freeze_language_model: false,
            freeze_vision_model: false,
            freeze_vision_projection: false,
        }
    }
}

impl LlavaModel {
    /// Positions that one picture takes in the combined sequence.
    pub fn image_seq_length(&self) -> usize {
        let side = self.vision_config.image_size / self.vision_config.patch_size.max(1);
        let class_token = usize::from(self.vision_feature_select_strategy == FeatureSelect::Full);
        side.saturating_mul(side).saturating_add(class_token)
    }

    /// Vision layers that the chosen hidden state needs; later ones are kept but never run.
    pub fn vision_layers_used(&self) -> usize {
        let layers = self.vision_config.layers();
        let index = if self.vision_feature_layer < 0 {
            (layers + 1).saturating_add(self.vision_feature_layer)
        } else {
            self.vision_feature_layer
        };
        index.clamp(0, layers) as usize
    }
}

/// Which positions of the vision encoder's output the projector sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FeatureSelect {
    /// All but the class token.
    Default,
    /// All.
    Full,
}

/// Family of the language model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TextModelType {
    /// `transformers.LlamaForCausalLM`.
    Llama,
}

/// A decoder-only language model, in the words of `transformers.LlamaConfig`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TextConfig {
    /// Family.
    pub model_type: TextModelType,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the gated MLP.
    pub intermediate_size: usize,
    /// Number of decoder layers.
    pub num_hidden_layers: usize,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key and value heads.
    pub num_key_value_heads: usize,
    /// Width of a head; `null` means `hidden_size / num_attention_heads`.
    pub head_dim: Option<usize>,
    /// Epsilon of RMSNorm.
    pub rms_norm_eps: f64,
    /// Base of the rotary angles.
    pub rope_theta: f64,
    /// Longest sequence that the model was made for.
    pub max_position_embeddings: usize,
    /// Whether the head reuses the embedding's weight.
    pub tie_word_embeddings: bool,
    /// Standard deviation of fresh weights.
    pub initializer_range: f64,
}

impl Default for TextConfig {
    /// Llama-2-7B with LLaVA-1.5's vocabulary of 32064.
    fn default() -> Self {
        Self {
            model_type: TextModelType::Llama,
            vocab_size: 32064,
            hidden_size: 4096,
            intermediate_size: 11008,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: 32,
            head_dim: None,
            rms_norm_eps: 1e-5,
            rope_theta: 10000.0,
            max_position_embeddings: 4096,
            tie_word_embeddings: false,
            initializer_range: 0.02,
        }
    }
}

impl TextConfig {
    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }
}

/// Family of the vision encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum VisionModelType {
    /// `transformers.CLIPVisionModel`.
    #[serde(rename = "clip_vision_model")]
    Clip,
}

/// A vision transformer, in the words of `transformers.CLIPVisionConfig`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VisionConfig {
    /// Family.
    pub model_type: VisionModelType,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Number of encoder layers.
    pub num_hidden_layers: usize,
    /// Number of heads.
    pub num_attention_heads: usize,
    /// Channels of a picture.
    pub num_channels: usize,
    /// Side of the square input, in pixels.
    pub image_size: usize,
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// Epsilon of LayerNorm.
    pub layer_norm_eps: f64,
    /// Standard deviation of fresh weights.
    pub initializer_range: f64,
}

impl VisionConfig {
    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads.max(1)
    }

    /// Layers as a number that a feature layer is compared with; far more than any model has.
    fn layers(&self) -> i64 {
        self.num_hidden_layers.min(1 << 62) as i64
    }
}

impl Default for VisionConfig {
    /// CLIP ViT-L/14 at 336 pixels.
    fn default() -> Self {
        Self {
            model_type: VisionModelType::Clip,
            hidden_size: 1024,
            intermediate_size: 4096,
            num_hidden_layers: 24,
            num_attention_heads: 16,
            num_channels: 3,
            image_size: 336,
            patch_size: 14,
            layer_norm_eps: 1e-5,
            initializer_range: 0.02,
        }
    }
}

impl Validate for LlavaModel {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        let text = &self.text_config;
        let vision = &self.vision_config;
        nonzero(
            &format!("{path}.text_config"),
            problems,
            &[
                ("vocab_size", text.vocab_size as u64),
                ("hidden_size", text.hidden_size as u64),
                ("intermediate_size", text.intermediate_size as u64),
                ("num_hidden_layers", text.num_hidden_layers as u64),
                ("num_attention_heads", text.num_attention_heads as u64),
                ("num_key_value_heads", text.num_key_value_heads as u64),
            ],
        );
        nonzero(
            &format!("{path}.vision_config"),
            problems,
            &[
                ("hidden_size", vision.hidden_size as u64),
                ("intermediate_size", vision.intermediate_size as u64),
                ("num_hidden_layers", vision.num_hidden_layers as u64),
                ("num_attention_heads", vision.num_attention_heads as u64),
                ("num_channels", vision.num_channels as u64),
                ("image_size", vision.image_size as u64),
                ("patch_size", vision.patch_size as u64),
            ],
        );
        let mut divides = |part: &str, what: &str, value: usize, by: &str, divisor: usize| {
            if divisor != 0 && !value.is_multiple_of(divisor) {
                problems.push(Problem::error(
                    format!("{path}.{part}.{what}"),
                    format!("`{what}` {value} is not a multiple of `{by}` {divisor}"),
                ));
            }
        };
        if text.head_dim.is_none() {
            divides(
                "text_config",
                "hidden_size",
                text.hidden_size,
                "num_attention_heads",
                text.num_attention_heads,
            );
        }
        divides(
            "text_config",
            "num_attention_heads",
            text.num_attention_heads,
            "num_key_value_heads",
            text.num_key_value_heads,
        );
        divides(
            "vision_config",
            "hidden_size",
            vision.hidden_size,
            "num_attention_heads",
            vision.num_attention_heads,
        );
        divides("vision_config", "image_size", vision.image_size, "patch_size", vision.patch_size);
        if !text.head_dim().is_multiple_of(2) {
            problems.push(Problem::error(
                format!("{path}.text_config.head_dim"),
                format!("`head_dim` {} is odd; rotary position embedding needs pairs", text.head_dim()),
            ));
        }
        let layers = vision.layers();
        if self.vision_feature_layer > layers || self.vision_feature_layer < -(layers + 1) {
            problems.push(Problem::error(
                format!("{path}.vision_feature_layer"),
                format!(
                    "`vision_feature_layer` {} lies outside the {layers} layers of the vision encoder",
                    self.vision_feature_layer
                ),
            ));
        }
    }
}
