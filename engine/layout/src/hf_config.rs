//! Hugging Face's `config.json` of a LLaVA model, in the spellings of transformers 4.x and 5.x.

use neva_schemas::{FeatureSelect, LlavaModel, TextConfig, TextModelType, VisionConfig, VisionModelType};
use serde_json::{Value, json};

/// A `config.json` that this program cannot follow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HfConfigError {
    /// Not a JSON object.
    #[error("not a JSON object")]
    NotAnObject,
    /// The file asks for things that this program would compute wrongly, or has values of the wrong type.
    #[error("{}", .0.join("; "))]
    Unsupported(Vec<String>),
}

/// Reads a LLaVA `config.json`. Absent fields take the defaults of transformers' classes.
///
/// # Errors
/// Everything in the file that this program does not implement, all at once.
pub fn from_hf_config(config: &Value) -> Result<LlavaModel, HfConfigError> {
    if !config.is_object() {
        return Err(HfConfigError::NotAnObject);
    }
    let empty = Value::Object(serde_json::Map::new());
    let mut reader = Reader { problems: Vec::new() };
    reader.expect(config, "", "model_type", &["llava"], "llava");
    reader.expect(config, "", "projector_hidden_act", &["gelu"], "gelu");
    let text = config.get("text_config").unwrap_or(&empty);
    let vision = config.get("vision_config").unwrap_or(&empty);
    let vision_feature_select_strategy = match config.get("vision_feature_select_strategy").and_then(Value::as_str) {
        None | Some("default") => FeatureSelect::Default,
        Some("full") => FeatureSelect::Full,
        Some(other) => {
            reader.problems.push(format!(
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
    let model = LlavaModel {
        text_config: reader.text(text, tied),
        vision_config: reader.vision(vision),
        image_token_index: reader.integer(config, "", image_token, 32000),
        vision_feature_layer: reader.integer(config, "", "vision_feature_layer", -2),
        vision_feature_select_strategy,
        ..LlavaModel::default()
    };
    if reader.problems.is_empty() {
        Ok(model)
    } else {
        Err(HfConfigError::Unsupported(reader.problems))
    }
}

/// Writes a model's `config.json`, in the spelling that transformers 4.x and 5.x both read.
pub fn to_hf_config(model: &LlavaModel) -> Value {
    let (text, vision) = (&model.text_config, &model.vision_config);
    json!({
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "image_seq_length": model.image_seq_length(),
        "image_token_index": model.image_token_index,
        "multimodal_projector_bias": true,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": model.vision_feature_layer,
        "vision_feature_select_strategy": model.vision_feature_select_strategy,
        "tie_word_embeddings": text.tie_word_embeddings,
        "text_config": {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "attention_bias": false,
            "mlp_bias": false,
            "hidden_act": "silu",
            "vocab_size": text.vocab_size,
            "hidden_size": text.hidden_size,
            "intermediate_size": text.intermediate_size,
            "num_hidden_layers": text.num_hidden_layers,
            "num_attention_heads": text.num_attention_heads,
            "num_key_value_heads": text.num_key_value_heads,
            "head_dim": text.head_dim(),
            "rms_norm_eps": text.rms_norm_eps,
            "rope_theta": text.rope_theta,
            "max_position_embeddings": text.max_position_embeddings,
            "tie_word_embeddings": text.tie_word_embeddings,
            "initializer_range": text.initializer_range,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_act": "quick_gelu",
            "hidden_size": vision.hidden_size,
            "intermediate_size": vision.intermediate_size,
            "num_hidden_layers": vision.num_hidden_layers,
            "num_attention_heads": vision.num_attention_heads,
            "num_channels": vision.num_channels,
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "layer_norm_eps": vision.layer_norm_eps,
            "initializer_range": vision.initializer_range,
        },
    })
}

struct Reader {
    problems: Vec<String>,
}

impl Reader {
    /// `transformers.LlamaConfig`.
    fn text(&mut self, text: &Value, tied_outside: bool) -> TextConfig {
        let at = "text_config.";
        self.expect(text, at, "model_type", &["llama"], "llama");
        self.expect(text, at, "hidden_act", &["silu"], "silu");
        for name in ["attention_bias", "mlp_bias"] {
            if self.boolean(text, at, name, false) {
                self.problems
                    .push(format!("`{at}{name}` is true, this program's Llama has no biases"));
            }
        }
        // 5.x moved the rotary settings into one object; 4.x had `rope_theta` and `rope_scaling` beside each other.
        let rope = text.get("rope_parameters").filter(|value| value.is_object()).unwrap_or(text);
        let scaling = text.get("rope_scaling").filter(|value| value.is_object()).unwrap_or(rope);
        let rope_type = ["rope_type", "type"]
            .iter()
            .find_map(|key| scaling.get(key))
            .and_then(Value::as_str)
            .unwrap_or("default");
        if rope_type != "default" {
            self.problems
                .push(format!("rotary embedding of type {rope_type:?} is not supported, only \"default\""));
        }
        let heads = self.size(text, at, "num_attention_heads", 32);
        TextConfig {
            model_type: TextModelType::Llama,
            vocab_size: self.size(text, at, "vocab_size", 32000),
            hidden_size: self.size(text, at, "hidden_size", 4096),
            intermediate_size: self.size(text, at, "intermediate_size", 11008),
            num_hidden_layers: self.size(text, at, "num_hidden_layers", 32),
            num_attention_heads: heads,
            num_key_value_heads: self.size(text, at, "num_key_value_heads", heads),
            head_dim: text
                .get("head_dim")
                .filter(|value| !value.is_null())
                .map(|_| self.size(text, at, "head_dim", 0)),
            rms_norm_eps: self.number(text, at, "rms_norm_eps", 1e-6),
            rope_theta: self.number(rope, at, "rope_theta", 10000.0),
            max_position_embeddings: self.size(text, at, "max_position_embeddings", 2048),
            tie_word_embeddings: tied_outside || self.boolean(text, at, "tie_word_embeddings", false),
            initializer_range: self.number(text, at, "initializer_range", 0.02),
        }
    }

    /// `transformers.CLIPVisionConfig`.
    fn vision(&mut self, vision: &Value) -> VisionConfig {
        let at = "vision_config.";
        self.expect(vision, at, "model_type", &["clip_vision_model"], "clip_vision_model");
        self.expect(vision, at, "hidden_act", &["quick_gelu"], "quick_gelu");
        VisionConfig {
            model_type: VisionModelType::Clip,
            hidden_size: self.size(vision, at, "hidden_size", 768),
            intermediate_size: self.size(vision, at, "intermediate_size", 3072),
            num_hidden_layers: self.size(vision, at, "num_hidden_layers", 12),
            num_attention_heads: self.size(vision, at, "num_attention_heads", 12),
            num_channels: self.size(vision, at, "num_channels", 3),
            image_size: self.size(vision, at, "image_size", 224),
            patch_size: self.size(vision, at, "patch_size", 32),
            layer_norm_eps: self.number(vision, at, "layer_norm_eps", 1e-5),
            initializer_range: self.number(vision, at, "initializer_range", 0.02),
        }
    }

    fn expect(&mut self, object: &Value, at: &str, name: &str, known: &[&str], default: &str) {
        let value = object.get(name).map_or(Some(default), Value::as_str);
        if !value.is_some_and(|value| known.contains(&value)) {
            self.problems
                .push(format!("`{at}{name}` is {}, supported: {}", object[name], known.join(", ")));
        }
    }

    fn size(&mut self, object: &Value, at: &str, name: &str, default: usize) -> usize {
        match object.get(name) {
            None | Some(Value::Null) => default,
            // A size beyond 2^31 is a mistake, and would overflow products of two of them.
            Some(value) => value.as_u64().filter(|size| *size < 1 << 31).map_or_else(
                || {
                    self.problems.push(format!("`{at}{name}` is {value}, expected a size"));
                    default
                },
                |size| size as usize,
            ),
        }
    }

    fn integer(&mut self, object: &Value, at: &str, name: &str, default: i64) -> i64 {
        self.value(object, at, name, default, "an integer", Value::as_i64)
    }

    fn number(&mut self, object: &Value, at: &str, name: &str, default: f64) -> f64 {
        self.value(object, at, name, default, "a number", Value::as_f64)
    }

    fn boolean(&mut self, object: &Value, at: &str, name: &str, default: bool) -> bool {
        self.value(object, at, name, default, "true or false", Value::as_bool)
    }

    fn value<T>(&mut self, object: &Value, at: &str, name: &str, default: T, what: &str, read: fn(&Value) -> Option<T>) -> T {
        match object.get(name) {
            None | Some(Value::Null) => default,
            Some(value) => read(value).unwrap_or_else(|| {
                self.problems.push(format!("`{at}{name}` is {value}, expected {what}"));
                default
            }),
        }
    }
}
