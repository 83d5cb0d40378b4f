//! Names of the parts of a multimodal model, and its `config.json`: `transformers.LlavaForConditionalGeneration` and
//! `transformers.InternVLForConditionalGeneration`.

use super::config_reader::{ConfigReader, HfConfigError};
use super::family::DecoderNames;
use super::registry::Families;
use crate::parameter::Part;
use neva_schemas::{Activation, FeatureLayers, FeatureSelect, LlavaModel, Model, ProjectorType};
use serde_json::{Value, json};

/// Prefix of the vision tower.
pub const VISION: &str = "model.vision_tower";
/// Prefix of the projector.
pub const PROJECTOR: &str = "model.multi_modal_projector";
/// Names of the decoder.
pub const DECODER: DecoderNames<'_> = DecoderNames {
    body: "model.language_model",
    head: "lm_head",
    megatron: "module.language_model.decoder",
};

/// Name of the setting that freezes a part.
pub fn freeze_setting(part: Part) -> Option<&'static str> {
    match part {
        Part::Language => Some("freeze_language_model"),
        Part::Vision => Some("freeze_vision_model"),
        Part::Projection => Some("freeze_vision_projection"),
        Part::Adapter => None,
    }
}

/// Part of the model, with the name below its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place<'a> {
    /// Below the vision tower's prefix.
    Vision(&'a str),
    /// Below the projector's prefix.
    Projector(&'a str),
    /// Below the decoder's prefix.
    Decoder(&'a str),
    /// The decoder's head, with its full name.
    Head(&'a str),
}

impl<'a> Place<'a> {
    /// Finds the part of a tensor; `None` if it belongs to no part. Accepted are layouts A (hub files), B (in
    /// memory, transformers 4.52 to 4.57) and C (in memory, 5.x; canonical):
    ///
    /// | A | B | C |
    /// |---|---|---|
    /// | `language_model.model.*` | `model.language_model.*` | `model.language_model.*` |
    /// | `language_model.lm_head.*` | `lm_head.*` | `lm_head.*` |
    /// | `multi_modal_projector.*` | `model.multi_modal_projector.*` | `model.multi_modal_projector.*` |
    /// | `vision_tower.vision_model.*` | `model.vision_tower.vision_model.*` | `model.vision_tower.*` |
    pub(super) fn of(name: &'a str) -> Option<Self> {
        let name = name.strip_prefix("model.").unwrap_or(name);
        if let Some(rest) = name.strip_prefix("vision_tower.") {
            return Some(Self::Vision(rest));
        }
        if let Some(rest) = name.strip_prefix("multi_modal_projector.") {
            return Some(Self::Projector(rest));
        }
        if let Some(rest) = name.strip_prefix("language_model.") {
            let rest = rest.strip_prefix("model.").unwrap_or(rest);
            return Some(if rest.starts_with("lm_head.") {
                Self::Head(rest)
            } else {
                Self::Decoder(rest)
            });
        }
        name.starts_with("lm_head.").then_some(Self::Head(name))
    }
}

/// Returns the name in the hub's files (layout A) for a canonical name; `vision` converts names of the vision tower.
pub(super) fn hub_name(canonical: &str, vision: impl Fn(&str) -> String) -> String {
    match Place::of(canonical) {
        Some(Place::Vision(rest)) => format!("vision_tower.{}", vision(rest)),
        Some(Place::Projector(rest)) => format!("multi_modal_projector.{rest}"),
        Some(Place::Decoder(rest)) => format!("language_model.model.{rest}"),
        Some(Place::Head(name)) => format!("language_model.{name}"),
        None => canonical.to_owned(),
    }
}

impl Families {
    /// Reads a Hugging Face `config.json`.
    ///
    /// # Errors
    /// All unsupported settings of the file.
    pub fn read_config(&self, config: &Value) -> Result<Model, HfConfigError> {
        let alone = self.read_language_config(config);
        alone.unwrap_or_else(|| read_config(config, self).map(Model::Llava))
    }
}

/// Reads a LLaVA `config.json` of built-in families.
///
/// # Errors
/// As [`Families::read_config`].
pub fn from_hf_config(config: &Value) -> Result<LlavaModel, HfConfigError> {
    read_config(config, &Families::builtin())
}

/// Reads the spellings of transformers 4.x and 5.x. Absent fields take the defaults of transformers' classes.
fn read_config(config: &Value, families: &Families) -> Result<LlavaModel, HfConfigError> {
    if !config.is_object() {
        return Err(HfConfigError::NotAnObject);
    }
    if config.get("text_config").is_none() && (config.get("mm_vision_tower").is_some() || config.get("mm_projector_type").is_some()) {
        let problem = "`text_config` is missing: this is the config of the original LLaVA repository; \
                       `neva-run import` makes a folder that can be read";
        return Err(HfConfigError::Unsupported(vec![problem.to_owned()]));
    }
    let empty = Value::Object(serde_json::Map::new());
    let mut reader = ConfigReader::default();
    reader.expect(config, "", "model_type", &COMPOSITES, LLAVA);
    let composite = match config.get("model_type").and_then(Value::as_str) {
        Some(INTERNVL) => Composite::INTERNVL,
        _ => Composite::LLAVA,
    };
    let text = config.get("text_config").unwrap_or(&empty);
    for (at, object) in [("", config), ("text_config.", text)] {
        reader.expect_unquantized(object, at);
    }
    let vision = config.get("vision_config").unwrap_or(&empty);
    let vision_feature_select_strategy = match config.get("vision_feature_select_strategy").and_then(Value::as_str) {
        None | Some("default") => FeatureSelect::Default,
        Some("full") => FeatureSelect::Full,
        Some(other) => {
            reader.problem(format!(
                "`vision_feature_select_strategy` is {other:?}, known are \"default\" and \"full\""
            ));
            FeatureSelect::Default
        }
    };
    let image_token = if config.get("image_token_id").is_some() {
        "image_token_id"
    } else {
        "image_token_index"
    };
    let tied = reader.boolean(config, "", "tie_word_embeddings", false);
    let (decoder, tower) = (
        families.decoder_of_config(text, "text_config.", composite.decoder, &mut reader),
        families.vision_of_config(vision, "vision_config.", composite.vision, &mut reader),
    );
    let model = LlavaModel {
        text_config: decoder.read_config(text, "text_config.", tied, &mut reader),
        vision_config: tower.read_config(vision, "vision_config.", &mut reader),
        image_token_index: reader.integer(config, "", image_token, composite.image_token),
        vision_feature_layer: feature_layers(config, composite.feature_layer, &mut reader),
        vision_feature_select_strategy,
        projector_type: projector_type(config, composite.projector, &mut reader),
        projector_hidden_act: reader.activation(config, "", "projector_hidden_act").unwrap_or(Activation::Gelu),
        multimodal_projector_bias: reader.boolean(config, "", "multimodal_projector_bias", true),
        downsample_ratio: match composite.projector {
            ProjectorType::InternVl => reader.number(config, "", "downsample_ratio", 0.5),
            _ => LlavaModel::default().downsample_ratio,
        },
        ..LlavaModel::default()
    };
    reader.finish(model)
}

/// `model_type` of `transformers.LlavaConfig`.
pub(super) const LLAVA: &str = "llava";
/// `model_type` of `transformers.InternVLConfig`.
const INTERNVL: &str = "internvl";

/// Every `model_type` of a whole model.
pub(super) const COMPOSITES: [&str; 2] = [LLAVA, INTERNVL];

/// Returns whether a `config.json` describes a whole model.
pub(super) fn is_composite(config: &Value) -> bool {
    let named = config.get("model_type").and_then(Value::as_str);
    named.is_some_and(|named| COMPOSITES.contains(&named))
}

/// Defaults of a config class of transformers for absent fields.
#[derive(Debug, Clone, Copy)]
struct Composite {
    decoder: &'static str,
    vision: &'static str,
    projector: ProjectorType,
    image_token: i64,
    feature_layer: i64,
}

impl Composite {
    const LLAVA: Self = Self {
        decoder: "llama",
        vision: "clip_vision_model",
        projector: ProjectorType::Mlp(2),
        image_token: 32000,
        feature_layer: -2,
    };
    const INTERNVL: Self = Self {
        decoder: "qwen2",
        vision: "internvl_vision",
        projector: ProjectorType::InternVl,
        image_token: 151_667,
        feature_layer: -1,
    };
}

/// Reads one number, or a list of them.
fn feature_layers(config: &Value, default: i64, reader: &mut ConfigReader) -> FeatureLayers {
    const NAME: &str = "vision_feature_layer";
    let Some(Value::Array(written)) = config.get(NAME) else {
        return reader.integer(config, "", NAME, default).into();
    };
    let numbers: Option<Vec<_>> = written.iter().map(Value::as_i64).collect();
    match numbers.filter(|numbers| !numbers.is_empty()) {
        Some(numbers) => numbers.into(),
        None => {
            reader.problem(format!("`{NAME}` is {}, expected a number or a list of numbers", config[NAME]));
            default.into()
        }
    }
}

/// Field of a `config.json` for projectors that transformers' classes do not have, as in LLaVA's own configs.
const PROJECTOR_TYPE: &str = "mm_projector_type";

fn projector_type(config: &Value, default: ProjectorType, reader: &mut ConfigReader) -> ProjectorType {
    match config.get(PROJECTOR_TYPE) {
        None | Some(Value::Null) => default,
        Some(written) => written.as_str().and_then(|name| name.parse().ok()).unwrap_or_else(|| {
            reader.problem(format!("`{PROJECTOR_TYPE}` is {written}, which is not a supported projector"));
            default
        }),
    }
}

/// Writes a model's `config.json`, in a spelling that transformers 4.x and 5.x both read, with the configs of its parts.
pub(super) fn write_config(model: &LlavaModel, text_config: Value, vision_config: Value) -> Value {
    let mut config = json!({
        "image_seq_length": model.image_seq_length(),
        "projector_hidden_act": model.projector_hidden_act,
        "vision_feature_layer": model.vision_feature_layer,
        "vision_feature_select_strategy": model.vision_feature_select_strategy,
        "tie_word_embeddings": model.text_config.tie_word_embeddings,
        "text_config": text_config,
        "vision_config": vision_config,
    });
    let own = if model.projector_type == ProjectorType::InternVl {
        json!({
            "architectures": ["InternVLForConditionalGeneration"],
            "model_type": INTERNVL,
            "image_token_id": model.image_token_index,
            "downsample_ratio": model.downsample_ratio,
        })
    } else {
        json!({
            "architectures": ["LlavaForConditionalGeneration"],
            "model_type": LLAVA,
            "image_token_index": model.image_token_index,
            "multimodal_projector_bias": model.multimodal_projector_bias,
        })
    };
    for (name, value) in own.as_object().into_iter().flatten() {
        config[name] = value.clone();
    }
    let projector = model.projector_type.explicit();
    if !matches!(projector, ProjectorType::Mlp(2) | ProjectorType::InternVl) {
        config[PROJECTOR_TYPE] = projector.to_string().into();
    }
    config
}
