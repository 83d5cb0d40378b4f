//! Fields that the Hugging Face configs of all decoders share.

use super::config_reader::ConfigReader;
use neva_schemas::{RopeScaling, RopeType, TextConfig, TextModelType};
use serde_json::{Value, json};

/// Defaults of a config class of transformers for absent fields.
pub(super) struct Defaults {
    pub(super) vocab_size: usize,
    pub(super) hidden_size: usize,
    pub(super) intermediate_size: usize,
    pub(super) num_hidden_layers: usize,
    pub(super) num_attention_heads: usize,
    /// `None` means the number of query heads.
    pub(super) num_key_value_heads: Option<usize>,
    pub(super) max_position_embeddings: usize,
    pub(super) initializer_range: f64,
}

/// Config being read. `at` is its path for messages.
pub(super) struct Source<'a> {
    pub(super) config: &'a Value,
    pub(super) at: &'a str,
    /// The whole model ties embedding and head.
    pub(super) tied: bool,
}

impl Source<'_> {
    /// Reads the fields of all families.
    pub(super) fn read(&self, family: TextModelType, defaults: &Defaults, reader: &mut ConfigReader) -> TextConfig {
        let Self { config, at, tied } = *self;
        let heads = reader.size(config, at, "num_attention_heads", defaults.num_attention_heads);
        let kv_heads = match config.get("num_key_value_heads") {
            None => defaults.num_key_value_heads.unwrap_or(heads),
            Some(_) => heads,
        };
        let head_dim = config.get("head_dim").filter(|value| !value.is_null());
        TextConfig {
            model_type: Some(family),
            vocab_size: reader.size(config, at, "vocab_size", defaults.vocab_size),
            hidden_size: reader.size(config, at, "hidden_size", defaults.hidden_size),
            intermediate_size: reader.size(config, at, "intermediate_size", defaults.intermediate_size),
            num_hidden_layers: reader.size(config, at, "num_hidden_layers", defaults.num_hidden_layers),
            num_attention_heads: heads,
            num_key_value_heads: reader.size(config, at, "num_key_value_heads", kv_heads),
            head_dim: head_dim.map(|_| reader.size(config, at, "head_dim", 0)),
            hidden_act: reader.activation(config, at, "hidden_act"),
            rope_theta: reader.number(self.rope(), at, "rope_theta", 10000.0),
            rope_scaling: self.rope_scaling(reader),
            max_position_embeddings: reader.size(config, at, "max_position_embeddings", defaults.max_position_embeddings),
            tie_word_embeddings: tied || reader.boolean(config, at, "tie_word_embeddings", false),
            initializer_range: reader.number(config, at, "initializer_range", defaults.initializer_range),
            ..TextConfig::default()
        }
    }

    /// Returns the object with the rotary settings: `rope_parameters` of transformers 5; 4 has `rope_theta` and
    /// `rope_scaling` in the config.
    fn rope(&self) -> &Value {
        let own = self.config.get("rope_parameters").filter(|value| value.is_object());
        own.unwrap_or(self.config)
    }

    fn rope_scaling(&self, reader: &mut ConfigReader) -> Option<RopeScaling> {
        let at = self.at;
        let scaling = self.config.get("rope_scaling").filter(|value| value.is_object());
        let scaling = scaling.unwrap_or_else(|| self.rope());
        let written = ["rope_type", "type"].iter().find_map(|key| scaling.get(key));
        let rope_type = match written.map_or(Some("default"), Value::as_str) {
            Some("default") => return None,
            Some("linear") => RopeType::Linear,
            Some("llama3") => RopeType::Llama3,
            _ => {
                let written = written.cloned().unwrap_or_default();
                reader.problem(format!(
                    "rotary embedding of type {written} is not supported, only \"default\", \"linear\" and \"llama3\""
                ));
                return None;
            }
        };
        if scaling.get("factor").is_none() {
            reader.problem(format!("`{at}rope_scaling` of type {} has no `factor`", json!(rope_type)));
        }
        let llama3 = rope_type == RopeType::Llama3;
        let mut own = |name: &str| llama3.then(|| reader.number(scaling, at, name, 0.0));
        Some(RopeScaling {
            rope_type,
            low_freq_factor: own("low_freq_factor"),
            high_freq_factor: own("high_freq_factor"),
            original_max_position_embeddings: llama3.then(|| reader.size(scaling, at, "original_max_position_embeddings", 0)),
            factor: reader.number(scaling, at, "factor", 1.0),
        })
    }

    /// Returns the fraction of each head that is rotated.
    pub(super) fn partial_rotary_factor(&self, default: f64, reader: &mut ConfigReader) -> f64 {
        let objects = [self.rope(), self.config];
        let object = objects.into_iter().find(|object| object.get("partial_rotary_factor").is_some());
        object.map_or(default, |object| reader.number(object, self.at, "partial_rotary_factor", default))
    }

    /// Adds a problem if not every dim of a head is rotated.
    pub(super) fn expect_whole_heads(&self, reader: &mut ConfigReader) {
        let factor = self.partial_rotary_factor(1.0, reader);
        if factor != 1.0 {
            let at = self.at;
            reader.problem(format!(
                "`{at}partial_rotary_factor` is {factor:?}, this model family rotates every head as a whole"
            ));
        }
    }
}

/// Writes the fields of all families, in a spelling that transformers 4.x and 5.x both read.
pub(super) fn write(config: &TextConfig, architecture: &str, own: Value) -> Value {
    let mut written = json!({
        "architectures": [architecture],
        "model_type": config.family().name(),
        "hidden_act": config.activation(),
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim(),
        "rope_theta": config.rope_theta,
        "max_position_embeddings": config.max_position_embeddings,
        "tie_word_embeddings": config.tie_word_embeddings,
        "initializer_range": config.initializer_range,
    });
    if let Some(fields) = written.as_object_mut() {
        if let Some(scaling) = &config.rope_scaling {
            let mut scaling = json!(scaling);
            if let Some(scaling) = scaling.as_object_mut() {
                scaling.retain(|_, value| !value.is_null());
            }
            fields.insert("rope_scaling".to_owned(), scaling);
        }
        if let Value::Object(own) = own {
            fields.extend(own);
        }
    }
    written
}
