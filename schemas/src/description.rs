//! Description of a model that every reader shares: a vision tower, a projector and a decoder, each optional.
//!
//! A recipe names a model by one `_target_`; the description says what that model consists of. Checks, adapters,
//! freezing, checkpoints, planning and the engine read the description and never ask which `_target_` it came from.

use crate::model::{Activation, FeatureLayers, FeatureSelect, LlavaModel, Model, ProjectorType, TextConfig, VisionConfig};
use serde::Serialize;

/// The parts of a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelDescription {
    /// Encoder of images.
    pub vision: Option<VisionTower>,
    /// Projector from the vision tower's features to the decoder's width.
    pub projector: Option<Projector>,
    /// Language model with its embedding and its head.
    pub decoder: Option<Decoder>,
}

/// A vision encoder with its selected hidden states.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VisionTower {
    /// Family and sizes.
    pub config: VisionConfig,
    /// Selected hidden states.
    pub feature_layers: FeatureLayers,
    /// Applies the norm after the last layer, if the family has one, to the selected hidden state: that of layer -1 in
    /// `transformers.InternVLModel`.
    pub post_norm: bool,
    /// Selected positions.
    pub feature_select: FeatureSelect,
    /// Freezes this part.
    pub frozen: bool,
}

/// A projector.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Projector {
    /// Kind of the projector.
    pub kind: ProjectorType,
    /// Activation between its linears.
    pub activation: Activation,
    /// Adds biases to the linears.
    pub bias: bool,
    /// Factor of the image's sides in the pixel shuffle; 1 without one.
    pub downsample_ratio: f64,
    /// Width of the vision tower's features, before a pixel shuffle.
    pub input_size: usize,
    /// Width of the decoder.
    pub output_size: usize,
    /// Freezes this part.
    pub frozen: bool,
}

/// A decoder-only language model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decoder {
    /// Family and sizes.
    pub config: TextConfig,
    /// Field of the recipe's model that holds the config.
    pub section: &'static str,
    /// Freezes this part.
    pub frozen: bool,
}

impl Model {
    /// Returns the parts of the model.
    pub fn description(&self) -> ModelDescription {
        match self {
            Self::Llava(model) => model.description(),
            Self::Gpt(model) | Self::Llama(model) | Self::Mistral(model) | Self::Nemotron(model) | Self::Qwen2(model) => ModelDescription {
                vision: None,
                projector: None,
                decoder: Some(Decoder {
                    config: model.text_config(self.language_family()),
                    section: "config",
                    frozen: false,
                }),
            },
        }
    }

    /// Returns setting and address of each part whose weights come from its own folder.
    pub fn pretrained_parts(&self) -> Vec<(&'static str, &str)> {
        self.as_llava().map(|model| model.pretrained_parts().collect()).unwrap_or_default()
    }

    /// Returns the address of the weights and sizes of the whole model.
    pub fn from_pretrained(&self) -> Option<&str> {
        match self {
            Self::Llava(model) => model.from_pretrained.as_deref(),
            Self::Gpt(model) | Self::Llama(model) | Self::Mistral(model) | Self::Nemotron(model) | Self::Qwen2(model) => {
                model.from_pretrained.as_deref()
            }
        }
    }

    /// Returns the addresses of [`Self::from_pretrained`] and [`Self::pretrained_parts`] for changes.
    pub fn pretrained_addresses_mut(&mut self) -> Vec<&mut String> {
        match self {
            Self::Llava(model) => {
                let addresses = [
                    &mut model.from_pretrained,
                    &mut model.language_model_from_pretrained,
                    &mut model.vision_model_from_pretrained,
                    &mut model.vision_projection_from_pretrained,
                ];
                addresses.into_iter().flatten().collect()
            }
            Self::Gpt(model) | Self::Llama(model) | Self::Mistral(model) | Self::Nemotron(model) | Self::Qwen2(model) => {
                model.from_pretrained.as_mut().into_iter().collect()
            }
        }
    }

    /// Returns the frozen parts.
    pub fn freezing(&self) -> Freezing {
        self.as_llava().map_or(Freezing::default(), |model| Freezing {
            vision: model.freeze_vision_model,
            projector: model.freeze_vision_projection,
            decoder: model.freeze_language_model,
        })
    }
}

/// The frozen parts of a model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Freezing {
    /// The vision tower.
    pub vision: bool,
    /// The projector.
    pub projector: bool,
    /// The decoder.
    pub decoder: bool,
}

impl LlavaModel {
    /// Returns the parts of the model: all three.
    pub fn description(&self) -> ModelDescription {
        ModelDescription {
            vision: Some(VisionTower {
                config: self.vision_config.clone(),
                feature_layers: self.vision_feature_layer.clone(),
                post_norm: self.projector_type == ProjectorType::InternVl && self.vision_feature_layer.numbers() == [-1],
                feature_select: self.vision_feature_select_strategy,
                frozen: self.freeze_vision_model,
            }),
            projector: Some(Projector {
                kind: self.projector_type,
                activation: self.projector_hidden_act,
                bias: self.multimodal_projector_bias,
                downsample_ratio: match self.projector_type {
                    ProjectorType::InternVl => self.downsample_ratio,
                    _ => 1.0,
                },
                input_size: self
                    .vision_config
                    .hidden_size
                    .saturating_mul(self.vision_feature_layer.numbers().len()),
                output_size: self.text_config.hidden_size,
                frozen: self.freeze_vision_projection,
            }),
            decoder: Some(Decoder {
                config: self.text_config.clone(),
                section: "text_config",
                frozen: self.freeze_language_model,
            }),
        }
    }
}

impl ModelDescription {
    /// Returns the number of positions of one image in the combined sequence; 0 without a vision tower.
    pub fn image_seq_length(&self) -> usize {
        let positions = self.vision.as_ref().map_or(0, VisionTower::positions);
        let factor = self.projector.as_ref().and_then(Projector::shuffle).unwrap_or(1);
        positions / factor.saturating_mul(factor).max(1)
    }

    /// Returns the number of layers that the pipeline splits: the decoder's.
    pub fn num_layers(&self) -> usize {
        self.decoder.as_ref().map_or(0, |decoder| decoder.config.num_hidden_layers)
    }

    /// Returns the width of the hidden states between two pipeline stages: the decoder's.
    pub fn hidden_size(&self) -> usize {
        self.decoder.as_ref().map_or(0, |decoder| decoder.config.hidden_size)
    }

    /// Returns the number of rows of the decoder's embedding; 0 without a decoder.
    pub fn vocab_size(&self) -> usize {
        self.decoder.as_ref().map_or(0, |decoder| decoder.config.vocab_size)
    }

    /// Returns the side of the square images in pixels; 0 without a vision tower.
    pub fn image_size(&self) -> usize {
        self.vision.as_ref().map_or(0, |vision| vision.config.image_size)
    }

    /// Returns whether every part is frozen.
    pub fn is_frozen(&self) -> bool {
        self.vision.as_ref().is_none_or(|vision| vision.frozen)
            && self.projector.as_ref().is_none_or(|projector| projector.frozen)
            && self.decoder.as_ref().is_none_or(|decoder| decoder.frozen)
    }
}

impl VisionTower {
    /// Returns the number of selected positions of one image.
    pub fn positions(&self) -> usize {
        let dropped = usize::from(self.feature_select == FeatureSelect::Default);
        self.config.tokens().saturating_sub(dropped)
    }

    /// Returns the index of each selected hidden state, in the order of concatenation: 0 is the embedding's output.
    pub fn features(&self) -> Vec<usize> {
        self.feature_layers.indices(self.config.layers())
    }

    /// Returns the number of layers that the selected hidden states need; later layers are stored for export but never run.
    pub fn layers_used(&self) -> usize {
        self.features().into_iter().max().unwrap_or(0)
    }
}

impl Projector {
    /// Returns the side of the square of positions that a pixel shuffle merges into one; 1 without one, `None` if
    /// `downsample_ratio` is not 1 divided by a whole number.
    pub fn shuffle(&self) -> Option<usize> {
        let factor = (1.0 / self.downsample_ratio).round();
        let whole = self.downsample_ratio > 0.0 && factor <= 1024.0 && (factor * self.downsample_ratio - 1.0).abs() < 1e-9;
        whole.then_some(factor as usize)
    }

    /// Returns the input width of the first linear.
    pub fn linear_input_size(&self) -> usize {
        let factor = self.shuffle().unwrap_or(1);
        self.input_size.saturating_mul(factor).saturating_mul(factor)
    }
}
