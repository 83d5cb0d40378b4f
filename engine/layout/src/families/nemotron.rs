//! Nemotron: `transformers.NemotronForCausalLM`.

use super::config_reader::ConfigReader;
use super::decoder::{self, DecoderNorm, DecoderStructure};
use super::decoder_config::{Defaults, Source, write};
use super::family::{DecoderFamily, DecoderNames};
use crate::parameter::ParamSpec;
use neva_schemas::{TextConfig, TextModelType};
use serde_json::{Value, json};

/// The Nemotron family.
#[derive(Debug, Clone, Copy)]
pub struct Nemotron;

/// Defaults of `transformers.NemotronConfig`.
const DEFAULTS: Defaults = Defaults {
    vocab_size: 256000,
    hidden_size: 6144,
    intermediate_size: 24576,
    num_hidden_layers: 32,
    num_attention_heads: 48,
    num_key_value_heads: None,
    max_position_embeddings: 4096,
    initializer_range: 0.0134,
};

pub(super) fn structure(config: &TextConfig) -> DecoderStructure {
    DecoderStructure {
        norm: DecoderNorm::LayerNorm1p,
        gated: false,
        qkv_bias: config.attention_bias,
        output_bias: config.attention_bias,
        mlp_bias: config.mlp_bias,
    }
}

impl DecoderFamily for Nemotron {
    fn hugging_face_type(&self) -> &'static str {
        "nemotron"
    }

    fn read_config(&self, config: &Value, at: &str, tied: bool, reader: &mut ConfigReader) -> TextConfig {
        let source = Source { config, at, tied };
        TextConfig {
            attention_bias: reader.boolean(config, at, "attention_bias", false),
            mlp_bias: reader.boolean(config, at, "mlp_bias", false),
            norm_eps: Some(reader.number(config, at, "norm_eps", 1e-5)),
            partial_rotary_factor: Some(source.partial_rotary_factor(0.5, reader)),
            ..source.read(TextModelType::Nemotron, &DEFAULTS, reader)
        }
    }

    fn write_config(&self, config: &TextConfig) -> Value {
        let own = json!({
            "attention_bias": config.attention_bias,
            "mlp_bias": config.mlp_bias,
            "norm_eps": config.eps(),
            "partial_rotary_factor": config.rotary_factor(),
        });
        write(config, "NemotronForCausalLM", own)
    }

    fn parameters(&self, config: &TextConfig, names: DecoderNames<'_>) -> Vec<ParamSpec> {
        decoder::parameters(config, structure(config), names)
    }

    fn head_weight(&self, config: &TextConfig, names: DecoderNames<'_>) -> String {
        decoder::head_weight(config, names)
    }

    fn is_derived(&self, name: &str) -> bool {
        name.ends_with(".rotary_emb.inv_freq")
    }
}
