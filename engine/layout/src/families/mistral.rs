//! Mistral: `transformers.MistralForCausalLM`.

use super::config_reader::ConfigReader;
use super::decoder::{self, DecoderNorm, DecoderStructure};
use super::decoder_config::{Defaults, Source, write};
use super::family::{DecoderFamily, DecoderNames};
use crate::parameter::ParamSpec;
use neva_schemas::{TextConfig, TextModelType};
use serde_json::{Value, json};

/// The Mistral family.
#[derive(Debug, Clone, Copy)]
pub struct Mistral;

/// Defaults of `transformers.MistralConfig`.
const DEFAULTS: Defaults = Defaults {
    vocab_size: 32000,
    hidden_size: 4096,
    intermediate_size: 14336,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    num_key_value_heads: Some(8),
    max_position_embeddings: 131072,
    initializer_range: 0.02,
};

/// Default of `sliding_window` for an absent field; `null` means no window.
const SLIDING_WINDOW: usize = 4096;

pub(super) fn structure() -> DecoderStructure {
    DecoderStructure {
        norm: DecoderNorm::Rms,
        gated: true,
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
    }
}

impl DecoderFamily for Mistral {
    fn hugging_face_type(&self) -> &'static str {
        "mistral"
    }

    fn read_config(&self, config: &Value, at: &str, tied: bool, reader: &mut ConfigReader) -> TextConfig {
        let source = Source { config, at, tied };
        source.expect_whole_heads(reader);
        let window = config.get("sliding_window").is_none_or(|value| !value.is_null());
        TextConfig {
            rms_norm_eps: reader.number(config, at, "rms_norm_eps", 1e-6),
            sliding_window: window.then(|| reader.size(config, at, "sliding_window", SLIDING_WINDOW)),
            ..source.read(TextModelType::Mistral, &DEFAULTS, reader)
        }
    }

    fn write_config(&self, config: &TextConfig) -> Value {
        let own = json!({
            "rms_norm_eps": config.rms_norm_eps,
            "sliding_window": config.sliding_window,
        });
        write(config, "MistralForCausalLM", own)
    }

    fn parameters(&self, config: &TextConfig, names: DecoderNames<'_>) -> Vec<ParamSpec> {
        decoder::parameters(config, structure(), names)
    }

    fn head_weight(&self, config: &TextConfig, names: DecoderNames<'_>) -> String {
        decoder::head_weight(config, names)
    }

    fn is_derived(&self, name: &str) -> bool {
        name.ends_with(".rotary_emb.inv_freq")
    }
}
