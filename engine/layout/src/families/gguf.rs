//! Language models in GGUF files: llama.cpp's metadata and names.

use super::config_reader::HfConfigError;
use serde_json::{Map, Value, json};

/// Architectures that are read, with the `model_type` of their config and its class.
const ARCHITECTURES: &[(&str, &str, &str)] = &[("llama", "llama", "LlamaForCausalLM"), ("qwen2", "qwen2", "Qwen2ForCausalLM")];

/// Names in a layer, and in Hugging Face's files.
const LAYER: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// Factors of rotary frequencies, which the config has as numbers.
const ROPE_FACTORS: &str = "rope_freqs.weight";

/// Metadata of a file, as far as the config needs them.
#[derive(Clone, Copy)]
pub struct GgufMetadata<'a> {
    /// `general.architecture`.
    pub architecture: &'a str,
    /// Returns a number of the metadata.
    pub number: &'a dyn Fn(&str) -> Option<f64>,
    /// Returns a text of the metadata.
    pub text: &'a dyn Fn(&str) -> Option<String>,
    /// The shape of a tensor.
    pub shape: &'a dyn Fn(&str) -> Option<Vec<usize>>,
    /// The factors of the rotary frequencies, if the file has them.
    pub rope_factors: Option<&'a [f32]>,
}

impl GgufMetadata<'_> {
    /// Returns the `config.json` of the model.
    ///
    /// # Errors
    /// The architecture is not supported, or a size is missing.
    pub fn config(&self) -> Result<Value, HfConfigError> {
        let architecture = self.architecture;
        let known = ARCHITECTURES.iter().find(|row| row.0 == architecture);
        let Some((_, model_type, class)) = known else {
            let names: Vec<_> = ARCHITECTURES.iter().map(|row| row.0).collect();
            return Err(HfConfigError::Unsupported(vec![format!(
                "`general.architecture` is {architecture:?}, known are {}",
                names.join(", ")
            )]));
        };
        let mut problems = Vec::new();
        let key = |name: &str| format!("{architecture}.{name}");
        let number = |name: &str| (self.number)(&key(name));
        let mut size = |name: &str| {
            let found = number(name).filter(|value| *value >= 1.0 && value.fract() == 0.0 && *value < f64::from(1 << 30));
            if found.is_none() {
                problems.push(format!("the metadata have no size `{}`", key(name)));
            }
            found.unwrap_or(1.0) as usize
        };
        let (hidden, layers, inner) = (size("embedding_length"), size("block_count"), size("feed_forward_length"));
        let (heads, context) = (size("attention.head_count"), size("context_length"));
        let kv_heads = number("attention.head_count_kv").map_or(heads, |heads| heads as usize);
        let rows = (self.shape)("token_embd.weight").and_then(|shape| shape.first().copied());
        if rows.is_none() {
            problems.push("there is no tensor `token_embd.weight`".to_owned());
        }
        let head_dim = number("attention.key_length").map_or(hidden / heads, |length| length as usize);
        let rotated = number("rope.dimension_count").map_or(head_dim, |count| count as usize);
        if rotated != head_dim {
            problems.push(format!(
                "{rotated} of {head_dim} dims of a head are rotated, only whole heads are supported"
            ));
        }
        for name in ["expert_count", "attention.sliding_window", "logit_scale", "attention.scale"] {
            if number(name).is_some_and(|value| value != 0.0) {
                problems.push(format!("`{}` is not supported", key(name)));
            }
        }
        let mut config = json!({
            "architectures": [class],
            "model_type": model_type,
            "vocab_size": rows.unwrap_or_default(),
            "hidden_size": hidden,
            "intermediate_size": inner,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": context,
            "rms_norm_eps": number("attention.layer_norm_rms_epsilon").unwrap_or(1e-5),
            "rope_theta": number("rope.freq_base").unwrap_or(10000.0),
            "tie_word_embeddings": (self.shape)("output.weight").is_none(),
            "attention_bias": *model_type == "llama" && (self.shape)("blk.0.attn_q.bias").is_some(),
        });
        let scaling = (self.text)(&key("rope.scaling.type"));
        match (scaling.as_deref(), self.rope_factors) {
            (None | Some("none"), None) => {}
            (Some("linear"), None) => {
                let factor = number("rope.scaling.factor").unwrap_or(1.0);
                config["rope_scaling"] = json!({"rope_type": "linear", "factor": factor});
            }
            (None | Some("none"), Some(factors)) => match llama3_scaling(factors, head_dim, &config["rope_theta"]) {
                Some(scaling) => config["rope_scaling"] = scaling,
                None => problems.push(format!("`{ROPE_FACTORS}` has factors that are not those of Llama 3.1 and 3.2")),
            },
            (Some(other), _) => problems.push(format!("rotary embedding of type {other:?} is not supported")),
        }
        for (name, key) in [("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")] {
            if let Some(id) = (self.number)(&format!("tokenizer.ggml.{key}_token_id")) {
                config[name] = json!(id as u64);
            }
        }
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(HfConfigError::Unsupported(problems))
        }
    }
}

/// Returns the settings of Llama 3.1 and 3.2 that give these factors; `None` if none do.
fn llama3_scaling(factors: &[f32], head_dim: usize, theta: &Value) -> Option<Value> {
    let (theta, old) = (theta.as_f64()?, 8192.0);
    let (low, high) = (1.0, 4.0);
    let factor = f64::from(*factors.iter().max_by(|a, b| a.total_cmp(b))?);
    let fits = factors.len() == head_dim / 2
        && factors.iter().enumerate().all(|(index, found)| {
            let length = 2.0 * std::f64::consts::PI * theta.powf(2.0 * index as f64 / head_dim as f64);
            let expected = if length < old / high {
                1.0
            } else if length > old / low {
                factor
            } else {
                let smooth = (old / length - low) / (high - low);
                1.0 / ((1.0 - smooth) / factor + smooth)
            };
            (f64::from(*found) / expected - 1.0).abs() < 1e-3
        });
    fits.then(|| {
        let numbers = Map::from_iter([
            ("factor".to_owned(), json!(factor)),
            ("low_freq_factor".to_owned(), json!(low)),
            ("high_freq_factor".to_owned(), json!(high)),
            ("original_max_position_embeddings".to_owned(), json!(old as u64)),
            ("rope_type".to_owned(), json!("llama3")),
        ]);
        Value::Object(numbers)
    })
}

/// Returns Hugging Face's name for a tensor of a GGUF file; `None` for one that is no parameter.
pub fn gguf_name(name: &str) -> Option<String> {
    let (base, end) = name.rsplit_once('.')?;
    let known = match base {
        "token_embd" => "model.embed_tokens",
        "output_norm" => "model.norm",
        "output" => "lm_head",
        _ => {
            let (layer, part) = base.strip_prefix("blk.")?.split_once('.')?;
            let layer: usize = layer.parse().ok()?;
            let own = LAYER.iter().find(|(own, _)| *own == part)?.1;
            return Some(format!("model.layers.{layer}.{own}.{end}"));
        }
    };
    Some(format!("{known}.{end}"))
}

/// Returns whether a tensor of a GGUF file follows from the config.
pub fn is_derived_gguf(name: &str) -> bool {
    name == ROPE_FACTORS
}

/// Returns the number of heads whose rows are in llama.cpp's order: it rotates neighbouring values, Hugging Face the two
/// halves of a head. `heads` are those of queries, and of keys.
pub fn rotated_heads(architecture: &str, name: &str, heads: (usize, usize)) -> Option<usize> {
    let part = name.strip_prefix("blk.")?.split('.').nth(1)?;
    match part {
        _ if architecture != "llama" => None,
        "attn_q" => Some(heads.0),
        "attn_k" => Some(heads.1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_heads() {
        for (name, expected) in [
            ("token_embd.weight", Some("model.embed_tokens.weight")),
            ("output.weight", Some("lm_head.weight")),
            ("blk.12.attn_q.bias", Some("model.layers.12.self_attn.q_proj.bias")),
            ("blk.x.attn_q.bias", None),
            ("rope_freqs.weight", None),
        ] {
            assert_eq!(gguf_name(name).as_deref(), expected);
        }
        assert_eq!(rotated_heads("llama", "blk.0.attn_k.weight", (9, 3)), Some(3));
        assert_eq!(rotated_heads("qwen2", "blk.0.attn_k.weight", (9, 3)), None);
    }

    #[test]
    fn factors_of_llama_3() {
        let theta = json!(500_000.0);
        let factors: Vec<f32> = (0..64)
            .map(|index| {
                let length = 2.0 * std::f64::consts::PI * 500_000_f64.powf(f64::from(index) / 64.0);
                let smooth = ((8192.0 / length - 1.0) / 3.0).clamp(0.0, 1.0);
                (1.0 / ((1.0 - smooth) / 8.0 + smooth)) as f32
            })
            .collect();
        let scaling = llama3_scaling(&factors, 128, &theta).unwrap();
        assert_eq!((&scaling["factor"], &scaling["rope_type"]), (&json!(8.0), &json!("llama3")));
        assert_eq!(llama3_scaling(&[2.0; 64], 128, &theta), None);
    }
}
