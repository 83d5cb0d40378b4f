//! LLaVA: a vision encoder, a projector and a language model.

use super::feature_layers::FeatureLayers;
use super::{Activation, ProjectorType, TextConfig, TextModelType, VisionConfig, VisionModelType};
use crate::validate::{Problem, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// LLaVA-1.5, with the field names of `transformers.LlavaConfig`, and the frozen parts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LlavaModel {
    /// The language model.
    pub text_config: TextConfig,
    /// The vision encoder.
    pub vision_config: VisionConfig,
    /// Id of `<image>` in the tokenizer's vocabulary.
    pub image_token_index: i64,
    /// Hidden state that the projector reads: 0 is the embedding's output, negative counts from the end. The hidden states
    /// of a list are concatenated along their width.
    pub vision_feature_layer: FeatureLayers,
    /// `default` drops the first position, which is the class token of CLIP and InternViT; `full` keeps all positions.
    pub vision_feature_select_strategy: FeatureSelect,
    /// Kind of the projector: `mlp2x_gelu` (any number of linears), `linear`, `mcore_mlp`, `mcore_affine` or `internvl`.
    pub projector_type: ProjectorType,
    /// Activation of the projector.
    pub projector_hidden_act: Activation,
    /// Biases of the projector's linears. `internvl` always has them.
    pub multimodal_projector_bias: bool,
    /// Factor of the image's sides in the pixel shuffle of `internvl`: 0.5 makes one position of four.
    pub downsample_ratio: f64,
    /// Freezes the language model.
    pub freeze_language_model: bool,
    /// Freezes the vision encoder.
    pub freeze_vision_model: bool,
    /// Freezes the projector.
    pub freeze_vision_projection: bool,
    /// Weights and sizes of the whole model: a Hugging Face folder, a checkpoint of this program, `nemo://ORG/NAME` in the
    /// model cache, or `hf://ORG/NAME[@REVISION]` in the hub. A size in a file or `--set` overrides that of its `config.json`.
    pub from_pretrained: Option<String>,
    /// Weights of the language model: a Hugging Face folder of a language model or of a whole LLaVA, a checkpoint of this
    /// program, `nemo://ORG/NAME` in the model cache, or `hf://ORG/NAME` in the hub. `null` loads them from
    /// `resume.restore_config`; without it they are initialized.
    pub language_model_from_pretrained: Option<String>,
    /// Weights of the vision encoder, in the same way: a folder of a vision encoder or of a whole LLaVA.
    pub vision_model_from_pretrained: Option<String>,
    /// Weights of the projector, in the same way: a folder of a whole LLaVA, or a checkpoint of this program.
    pub vision_projection_from_pretrained: Option<String>,
}

impl Default for LlavaModel {
    fn default() -> Self {
        Self {
            text_config: TextConfig {
                model_type: Some(TextModelType::Llama),
                ..TextConfig::default()
            },
            vision_config: VisionConfig::default(),
            image_token_index: 32000,
            vision_feature_layer: FeatureLayers::from(-2),
            vision_feature_select_strategy: FeatureSelect::Default,
            projector_type: ProjectorType::Mlp(2),
            projector_hidden_act: Activation::Gelu,
            multimodal_projector_bias: true,
            downsample_ratio: 0.5,
            freeze_language_model: false,
            freeze_vision_model: false,
            freeze_vision_projection: false,
            from_pretrained: None,
            language_model_from_pretrained: None,
            vision_model_from_pretrained: None,
            vision_projection_from_pretrained: None,
        }
    }
}

impl LlavaModel {
    /// Returns setting and value of each part that is loaded from its own folder.
    pub fn pretrained_parts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [
            ("language_model_from_pretrained", &self.language_model_from_pretrained),
            ("vision_model_from_pretrained", &self.vision_model_from_pretrained),
            ("vision_projection_from_pretrained", &self.vision_projection_from_pretrained),
        ]
        .into_iter()
        .filter_map(|(setting, address)| Some((setting, address.as_deref()?)))
    }

    /// Returns the number of positions of one image in the combined sequence.
    pub fn image_seq_length(&self) -> usize {
        self.description().image_seq_length()
    }

    /// Returns the number of vision layers that the selected hidden states need; later layers are stored but never run.
    pub fn vision_layers_used(&self) -> usize {
        self.description().vision.map_or(0, |vision| vision.layers_used())
    }
}

/// Positions of the vision encoder's output that the projector reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FeatureSelect {
    /// All but the first.
    Default,
    /// All.
    Full,
}

impl Validate for LlavaModel {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        self.text_config.validate(&format!("{path}.text_config"), problems);
        self.vision_config.validate(&format!("{path}.vision_config"), problems);
        let whole = self.from_pretrained.iter().map(|address| ("from_pretrained", address.as_str()));
        for (setting, _) in whole.chain(self.pretrained_parts()).filter(|(_, address)| address.is_empty()) {
            problems.push(
                Problem::error(format!("{path}.{setting}"), format!("`{setting}` is empty"))
                    .help("name a folder, or set it to null for fresh weights"),
            );
        }
        self.validate_features(path, problems);
    }
}

impl LlavaModel {
    /// Checks the selected hidden states and the projector.
    fn validate_features(&self, path: &str, problems: &mut Vec<Problem>) {
        let layers = self.vision_config.layers();
        let at = format!("{path}.vision_feature_layer");
        if self.vision_feature_layer.numbers().is_empty() {
            problems.push(Problem::error(&at, "`vision_feature_layer` is an empty list").help("name a layer, such as -2"));
        }
        for number in self.vision_feature_layer.outside(layers) {
            let message = format!("`vision_feature_layer` {number} is outside the {layers} layers of the vision encoder");
            problems.push(Problem::error(&at, message));
        }
        let vision = &self.vision_config;
        if self.vision_feature_select_strategy == FeatureSelect::Default && vision.model_type == VisionModelType::Siglip {
            let message = "SigLIP has no class token: `default` drops the first patch of each image, as transformers does";
            let problem = Problem::warning(format!("{path}.vision_feature_select_strategy"), message);
            problems.push(problem.help(format!("--set {path}.vision_feature_select_strategy=full")));
        }
        if self.projector_type != ProjectorType::InternVl {
            if self.downsample_ratio != Self::default().downsample_ratio {
                let message = format!(
                    "`{}` has no pixel shuffle and does not read `downsample_ratio`",
                    self.projector_type
                );
                let problem = Problem::error(format!("{path}.downsample_ratio"), message);
                problems.push(problem.help(format!("remove it, or --set {path}.projector_type=internvl")));
            }
            return;
        }
        if !self.multimodal_projector_bias {
            let message = "the projector `internvl` has biases";
            problems.push(Problem::error(format!("{path}.multimodal_projector_bias"), message).help("remove the field"));
        }
        let description = self.description();
        let (Some(tower), Some(projector)) = (&description.vision, &description.projector) else {
            return;
        };
        let positions = tower.positions();
        let side = positions.isqrt();
        let Some(factor) = projector.shuffle() else {
            let message = format!("`downsample_ratio` {} is not 1 divided by a whole number", self.downsample_ratio);
            problems.push(Problem::error(format!("{path}.downsample_ratio"), message).help("use 0.5"));
            return;
        };
        if side * side != positions || !side.is_multiple_of(factor) {
            let message = format!(
                "the pixel shuffle cannot make one position of {factor} x {factor}: an image has {positions} positions, \
                 which is not the square of a multiple of {factor}"
            );
            problems.push(
                Problem::error(format!("{path}.downsample_ratio"), message)
                    .help("change `image_size`, `vision_feature_select_strategy` or `downsample_ratio`"),
            );
        }
    }
}
