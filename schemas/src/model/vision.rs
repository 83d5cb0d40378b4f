//! Vision encoders, with the field names of transformers' vision configs.

use super::{activation::Activation, divides};
use crate::custom_family::CustomFamily;
use crate::validate::{Problem, Validate, nonzero};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Family of the vision encoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub enum VisionModelType {
    /// `transformers.CLIPVisionModel`.
    #[serde(rename = "clip_vision_model")]
    Clip,
    /// `transformers.SiglipVisionModel`.
    #[serde(rename = "siglip_vision_model")]
    Siglip,
    /// `transformers.InternVLVisionModel` (InternViT).
    #[serde(rename = "internvl_vision")]
    InternVit,
    /// A custom family of the rank program, registered under its `_target_`: `my_crate::MyVision`.
    Custom(CustomFamily),
}

impl VisionModelType {
    /// Returns the name of the family: Hugging Face's `model_type`, or the path of a custom one.
    pub fn name(&self) -> &str {
        match self {
            Self::Clip => "clip_vision_model",
            Self::Siglip => "siglip_vision_model",
            Self::InternVit => "internvl_vision",
            Self::Custom(family) => family.target(),
        }
    }

    /// Returns whether the patches are preceded by a class token. A custom family has one, unless its argument
    /// `class_token` is false.
    pub fn has_class_token(&self) -> bool {
        match self {
            Self::Clip | Self::InternVit => true,
            Self::Siglip => false,
            Self::Custom(family) => family.0.get("class_token").and_then(Value::as_bool).unwrap_or(true),
        }
    }
}

/// Norm of the layers of InternViT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum VisionNorm {
    /// LayerNorm, as in InternViT-300M.
    LayerNorm,
    /// RMSNorm, as in InternViT-6B.
    RmsNorm,
}

/// A vision transformer, with the field names of transformers' `CLIPVisionConfig`, `SiglipVisionConfig` and `InternVLVisionConfig`.
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
    /// Channels of an image.
    pub num_channels: usize,
    /// Side of the square input, in pixels.
    pub image_size: usize,
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// Activation of the MLP; `null` means the family's: `quick_gelu` for CLIP, `gelu_pytorch_tanh` for SigLIP, `gelu` for
    /// InternViT.
    pub hidden_act: Option<Activation>,
    /// Epsilon of the norms.
    pub layer_norm_eps: f64,
    /// Standard deviation of initial weights.
    pub initializer_range: f64,
    /// Adds biases to query, key and value. Only `internvl_vision` may be without them.
    pub attention_bias: bool,
    /// Norm of the layers. Only `internvl_vision` has `rms_norm`.
    pub norm_type: VisionNorm,
    /// Applies RMSNorm to queries and keys, over all heads together. `internvl_vision` only.
    pub use_qk_norm: bool,
    /// Initial value of the two scales of each layer. `internvl_vision` only.
    pub layer_scale_init_value: f64,
    /// Leaves out the norm after the last layer. Only `internvl_vision` may have that norm.
    pub use_mean_pooling: bool,
    /// Stores the pooling head of `siglip_vision_model` in checkpoints, for export. It is never run.
    pub vision_use_head: bool,
}

/// Values of an image processor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ImageDefaults {
    /// Mean of each channel.
    pub mean: [f64; 3],
    /// Standard deviation of each channel.
    pub std: [f64; 3],
    /// Resizes the shorter side and crops the centre; otherwise resizes both sides.
    pub crops: bool,
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
            hidden_act: None,
            layer_norm_eps: 1e-5,
            initializer_range: 0.02,
            attention_bias: true,
            norm_type: VisionNorm::LayerNorm,
            use_qk_norm: false,
            layer_scale_init_value: 0.1,
            use_mean_pooling: true,
            vision_use_head: false,
        }
    }
}

impl VisionConfig {
    /// Returns CLIP ViT-L/14 at 336 pixels: `openai/clip-vit-large-patch14-336`.
    pub fn clip_vit_l_14_336() -> Self {
        Self::default()
    }

    /// Returns SigLIP so400m/14 at 384 pixels, without its pooling head: `google/siglip-so400m-patch14-384`.
    pub fn siglip_vit_400m_14_384() -> Self {
        Self {
            model_type: VisionModelType::Siglip,
            hidden_size: 1152,
            intermediate_size: 4304,
            num_hidden_layers: 27,
            num_attention_heads: 16,
            image_size: 384,
            patch_size: 14,
            layer_norm_eps: 1e-6,
            ..Self::default()
        }
    }

    /// Returns InternViT-300M at 448 pixels: `OpenGVLab/InternViT-300M-448px-V2_5`.
    pub fn intern_vit_300m_448px() -> Self {
        Self {
            model_type: VisionModelType::InternVit,
            image_size: 448,
            layer_norm_eps: 1e-6,
            ..Self::default()
        }
    }

    /// Returns InternViT-6B at 448 pixels: `OpenGVLab/InternViT-6B-448px-V2_5`.
    pub fn intern_vit_6b_448px() -> Self {
        Self {
            hidden_size: 3200,
            intermediate_size: 12800,
            num_hidden_layers: 45,
            num_attention_heads: 25,
            attention_bias: false,
            norm_type: VisionNorm::RmsNorm,
            use_qk_norm: true,
            ..Self::intern_vit_300m_448px()
        }
    }

    /// Returns the width of a head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads.max(1)
    }

    /// Activation of the MLP.
    pub fn activation(&self) -> Activation {
        self.hidden_act.unwrap_or(match self.model_type {
            VisionModelType::Clip | VisionModelType::Custom(_) => Activation::QuickGelu,
            VisionModelType::Siglip => Activation::GeluPytorchTanh,
            VisionModelType::InternVit => Activation::Gelu,
        })
    }

    /// Returns the same config with all derived values explicit.
    #[must_use]
    pub fn explicit(&self) -> Self {
        Self {
            hidden_act: Some(self.activation()),
            ..self.clone()
        }
    }

    /// Returns the number of positions of an image: its patches, and the class token if there is one.
    pub fn tokens(&self) -> usize {
        let side = self.image_size / self.patch_size.max(1);
        let class_token = usize::from(self.model_type.has_class_token());
        side.saturating_mul(side).saturating_add(class_token)
    }

    /// Returns the values of the family's image processor, for models without such a file.
    pub fn image_defaults(&self) -> ImageDefaults {
        match self.model_type {
            VisionModelType::Clip | VisionModelType::Custom(_) => ImageDefaults {
                mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
                std: [0.268_629_54, 0.261_302_58, 0.275_777_11],
                crops: true,
            },
            VisionModelType::Siglip => ImageDefaults {
                mean: [0.5; 3],
                std: [0.5; 3],
                crops: false,
            },
            VisionModelType::InternVit => ImageDefaults {
                mean: [0.485, 0.456, 0.406],
                std: [0.229, 0.224, 0.225],
                crops: false,
            },
        }
    }

    /// Returns the number of layers for comparison with a feature layer; clamped far above that of any model.
    pub(crate) fn layers(&self) -> i64 {
        self.num_hidden_layers.min(1 << 62) as i64
    }

    fn validate_foreign_fields(&self, path: &str, problems: &mut Vec<Problem>) {
        let neutral = Self::default();
        let intern = self.model_type == VisionModelType::InternVit;
        let own = matches!(self.model_type, VisionModelType::Custom(_));
        let fields = [
            ("attention_bias", intern || self.attention_bias == neutral.attention_bias),
            ("norm_type", intern || self.norm_type == neutral.norm_type),
            ("use_qk_norm", intern || self.use_qk_norm == neutral.use_qk_norm),
            (
                "layer_scale_init_value",
                intern || self.layer_scale_init_value == neutral.layer_scale_init_value,
            ),
            ("use_mean_pooling", intern || self.use_mean_pooling == neutral.use_mean_pooling),
            (
                "vision_use_head",
                self.model_type == VisionModelType::Siglip || self.vision_use_head == neutral.vision_use_head,
            ),
        ];
        for (field, applies) in fields {
            if !applies && !own {
                let message = format!("{} has no `{field}`", self.model_type.name());
                problems.push(Problem::error(format!("{path}.{field}"), message).help(format!("remove `{field}`")));
            }
        }
    }
}

impl Validate for VisionConfig {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        if let VisionModelType::Custom(family) = &self.model_type {
            family.validate(&format!("{path}.model_type"), "clip_vision_model", problems);
        }
        let sizes = [
            ("hidden_size", self.hidden_size as u64),
            ("intermediate_size", self.intermediate_size as u64),
            ("num_hidden_layers", self.num_hidden_layers as u64),
            ("num_attention_heads", self.num_attention_heads as u64),
            ("num_channels", self.num_channels as u64),
            ("image_size", self.image_size as u64),
            ("patch_size", self.patch_size as u64),
        ];
        nonzero(path, problems, &sizes);
        let heads = ("num_attention_heads", self.num_attention_heads);
        divides(path, ("hidden_size", self.hidden_size), heads, problems);
        if self.image_size < self.patch_size {
            let message = format!("`image_size` {} is smaller than `patch_size` {}", self.image_size, self.patch_size);
            problems.push(Problem::error(format!("{path}.image_size"), message));
        }
        self.validate_foreign_fields(path, problems);
    }
}
