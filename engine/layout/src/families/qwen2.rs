//! Qwen2: `transformers.Qwen2ForCausalLM`.

use super::config_reader::ConfigReader;
use super::decoder::{self, DecoderNorm, DecoderStructure};
use super::decoder_config::{Defaults, Source, write};
use super::family::{DecoderFamily, DecoderNames};
use crate::parameter::ParamSpec;
use neva_schemas::{LayerType, TextConfig, TextModelType};
use serde_json::{Value, json};

/// The Qwen2 family.
#[derive(Debug, Clone, Copy)]
pub struct Qwen2;

/// Defaults of `transformers.Qwen2Config`.
const DEFAULTS: Defaults = Defaults {
    vocab_size: 151936,
    hidden_size: 4096,
    intermediate_size: 22016,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    num_key_value_heads: Some(32),
    max_position_embeddings: 32768,
    initializer_range: 0.02,
};

pub(super) fn structure() -> DecoderStructure {
    DecoderStructure {
        norm: DecoderNorm::Rms,
        gated: true,
        qkv_bias: true,
        output_bias: false,
        mlp_bias: false,
    }
}

impl DecoderFamily for Qwen2 {
    fn hugging_face_type(&self) -> &'static str {
        "qwen2"
    }

    fn read_config(&self, config: &Value, at: &str, tied: bool, reader: &mut ConfigReader) -> TextConfig {
        let source = Source { config, at, tied };
        source.expect_whole_heads(reader);
        let types = layer_types(config, at, reader);
        let windowed = reader.boolean(config, at, "use_sliding_window", false);
        let window = windowed && config.get("sliding_window").is_none_or(|value| !value.is_null());
        TextConfig {
            rms_norm_eps: reader.number(config, at, "rms_norm_eps", 1e-6),
            sliding_window: window.then(|| reader.size(config, at, "sliding_window", 4096)),
            use_sliding_window: Some(windowed),
            max_window_layers: Some(reader.size(config, at, "max_window_layers", 28)),
            layer_types: types.filter(|_| window),
            ..source.read(TextModelType::Qwen2, &DEFAULTS, reader)
        }
    }

    fn write_config(&self, config: &TextConfig) -> Value {
        let layers = 0..config.num_hidden_layers;
        let windows: Vec<_> = layers.map(|layer| config.window(layer)).collect();
        let windowed = windows.iter().any(Option::is_some);
        let types = windows.iter().map(|window| match window {
            Some(_) => LayerType::SlidingAttention,
            None => LayerType::FullAttention,
        });
        let first = windows.iter().position(Option::is_some).unwrap_or(windows.len());
        let own = json!({
            "rms_norm_eps": config.rms_norm_eps,
            "sliding_window": config.sliding_window.filter(|_| windowed),
            "use_sliding_window": windowed,
            "max_window_layers": first,
            "layer_types": types.collect::<Vec<_>>(),
        });
        write(config, "Qwen2ForCausalLM", own)
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

/// Reads the attention of each layer, if the config lists it.
fn layer_types(config: &Value, at: &str, reader: &mut ConfigReader) -> Option<Vec<LayerType>> {
    let types = config.get("layer_types").filter(|value| !value.is_null())?;
    let read = serde_json::from_value(types.clone());
    if read.is_err() {
        reader.problem(format!(
            "`{at}layer_types` is {types}, expected a list of \"full_attention\" and \"sliding_attention\""
        ));
    }
    read.ok()
}
