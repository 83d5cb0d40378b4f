//! Llama 2, Llama 3 and Vicuna: `transformers.LlamaForCausalLM`.

use super::config_reader::ConfigReader;
use super::decoder::{self, DecoderNorm, DecoderStructure};
use super::decoder_config::{Defaults, Source, write};
use super::family::{DecoderFamily, DecoderNames};
use crate::parameter::ParamSpec;
use neva_schemas::{TextConfig, TextModelType};
use serde_json::{Value, json};

/// The Llama family.
#[derive(Debug, Clone, Copy)]
pub struct Llama;

/// Defaults of `transformers.LlamaConfig`.
const DEFAULTS: Defaults = Defaults {
    vocab_size: 32000,
    hidden_size: 4096,
    intermediate_size: 11008,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    num_key_value_heads: None,
    max_position_embeddings: 2048,
    initializer_range: 0.02,
};

pub(super) fn structure(config: &TextConfig) -> DecoderStructure {
    DecoderStructure {
        norm: DecoderNorm::Rms,
        gated: true,
        qkv_bias: config.attention_bias,
        output_bias: config.attention_bias,
        mlp_bias: config.mlp_bias,
    }
}

impl DecoderFamily for Llama {
    fn hugging_face_type(&self) -> &'static str {
        "llama"
    }

    fn read_config(&self, config: &Value, at: &str, tied: bool, reader: &mut ConfigReader) -> TextConfig {
        let source = Source { config, at, tied };
        source.expect_whole_heads(reader);
        TextConfig {
            attention_bias: reader.boolean(config, at, "attention_bias", false),
            mlp_bias: reader.boolean(config, at, "mlp_bias", false),
            rms_norm_eps: reader.number(config, at, "rms_norm_eps", 1e-6),
            ..source.read(TextModelType::Llama, &DEFAULTS, reader)
        }
    }

    fn write_config(&self, config: &TextConfig) -> Value {
        let own = json!({
            "attention_bias": config.attention_bias,
            "mlp_bias": config.mlp_bias,
            "rms_norm_eps": config.rms_norm_eps,
        });
        write(config, "LlamaForCausalLM", own)
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
