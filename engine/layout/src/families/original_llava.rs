//! Checkpoints of the original LLaVA repository: their `config.json` and the names of their tensors.
//!
//! Such a config is that of the language model, with `mm_` fields of images. A checkpoint may lack the vision encoder, which
//! is the CLIP that `mm_vision_tower` names.

use super::config_reader::HfConfigError;
use super::registry::Families;
use neva_schemas::ProjectorType;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Prefix of every name in a checkpoint of adapters.
const ADAPTED: &str = "base_model.model.";

/// The `config.json` of a checkpoint of the original LLaVA repository.
#[derive(Debug, Clone, PartialEq)]
pub struct OriginalLlava {
    config: Value,
    model_type: &'static str,
}

impl OriginalLlava {
    /// Reads a config; `None` if it is one of transformers.
    ///
    /// # Errors
    /// Everything that is not LLaVA-1.5: other decoders, tiles of LLaVA-1.6, tokens around images.
    pub fn of(config: &Value) -> Option<Result<Self, HfConfigError>> {
        let field = |name: &str| config.get(name).filter(|value| !value.is_null());
        if field("text_config").is_some() || (field("mm_vision_tower").is_none() && field("mm_projector_type").is_none()) {
            return None;
        }
        let text = |name: &str| field(name).and_then(Value::as_str).unwrap_or_default();
        let architecture = config["architectures"][0].as_str().unwrap_or_default();
        let (kind, mut problems) = (text("model_type"), Vec::new());
        let model_type = match (kind, architecture) {
            ("llava_mistral" | "mistral", _) | (_, "LlavaMistralForCausalLM") => "mistral",
            ("llava_qwen" | "qwen2", _) | (_, "LlavaQwenForCausalLM") => "qwen2",
            ("llava" | "llava_llama" | "llama", _) => "llama",
            _ => {
                problems.push(format!(
                    "`model_type` is {kind:?}, of the original LLaVA are read: llava, llava_llama, llava_mistral, llava_qwen"
                ));
                "llama"
            }
        };
        let tiles = text("image_aspect_ratio").starts_with("anyres") || text("mm_patch_merge_type").starts_with("spatial");
        if tiles {
            problems.push("it divides images into tiles, as LLaVA-1.6: only LLaVA-1.5, with one image as a whole, is read".to_owned());
        }
        if field("mm_use_im_start_end") == Some(&Value::Bool(true)) {
            problems.push("`mm_use_im_start_end` is true: tokens around images, as in LLaVA-1.0, are not supported".to_owned());
        }
        if let Some(resampler) = field("mm_resampler_type") {
            problems.push(format!("`mm_resampler_type` is {resampler}, which is not supported"));
        }
        let projector = field("mm_projector_type").map(|value| value.as_str().map(str::parse::<ProjectorType>));
        if projector.is_some_and(|parsed| !matches!(parsed, Some(Ok(_)))) {
            problems.push(format!(
                "`mm_projector_type` is {}, which is not a supported projector",
                config["mm_projector_type"]
            ));
        }
        Some(if problems.is_empty() {
            let config = config.clone();
            Ok(Self { config, model_type })
        } else {
            Err(HfConfigError::Unsupported(problems))
        })
    }

    /// Returns the folder or the address of the vision encoder.
    pub fn vision_tower(&self) -> Option<&str> {
        let field = |name: &str| self.config.get(name).and_then(Value::as_str);
        field("mm_vision_tower").or_else(|| field("vision_tower"))
    }

    /// Returns the folder or the address that the model was trained from, which is the base of adapters.
    pub fn base(&self) -> Option<&str> {
        self.config
            .get("_name_or_path")
            .and_then(Value::as_str)
            .filter(|name| !name.is_empty())
    }

    /// Returns the number of rows of the embedding.
    pub fn vocab_size(&self) -> Option<usize> {
        self.config
            .get("vocab_size")
            .and_then(Value::as_u64)
            .and_then(|rows| usize::try_from(rows).ok())
    }

    /// Returns the config of the language model alone.
    pub fn text_config(&self) -> Value {
        let mut text = self.config.clone();
        text["model_type"] = json!(self.model_type);
        text
    }

    /// Returns transformers' config with the vision encoder's config, `rows` rows of the embedding, and the image token.
    ///
    /// # Errors
    /// Everything in it that this program does not implement.
    pub fn convert(&self, families: &Families, vision: &Value, rows: usize, image_token: i64) -> Result<Value, HfConfigError> {
        let config = &self.config;
        let mut text = self.text_config();
        text["vocab_size"] = json!(rows);
        let select = match config.get("mm_vision_select_feature").and_then(Value::as_str) {
            Some("cls_patch") => "full",
            _ => "default",
        };
        let whole = json!({
            "model_type": "llava",
            "image_token_index": image_token,
            "vision_feature_layer": config.get("mm_vision_select_layer").and_then(Value::as_i64).unwrap_or(-2),
            "vision_feature_select_strategy": select,
            // LLaVA's own default is one linear.
            "mm_projector_type": config.get("mm_projector_type").and_then(Value::as_str).unwrap_or("linear"),
            "text_config": text,
            "vision_config": vision,
        });
        let model = families.read_config(&whole)?;
        let table = families.resolve(&model, "model");
        let table = table.map_err(|problem| HfConfigError::Unsupported(vec![problem.message]))?;
        let mut written = table.write_config();
        for name in ["torch_dtype", "bos_token_id", "eos_token_id", "pad_token_id"] {
            if let Some(value) = config.get(name).filter(|value| !value.is_null()) {
                written[name] = value.clone();
            }
        }
        written["ignore_index"] = json!(-100);
        Ok(written)
    }
}

/// Returns the name in the hub's files (layout A) for one of the original repository; `None` for other names.
pub fn original_name(name: &str) -> Option<String> {
    let mut name = name;
    while let Some(rest) = name.strip_prefix(ADAPTED) {
        name = rest;
    }
    if name.starts_with("lm_head.") {
        return Some(format!("language_model.{name}"));
    }
    let rest = name.strip_prefix("model.").unwrap_or(name);
    if let Some(rest) = rest.strip_prefix("vision_tower.") {
        return Some(format!("vision_tower.{}", rest.strip_prefix("vision_tower.").unwrap_or(rest)));
    }
    if let Some(rest) = rest.strip_prefix("mm_projector.") {
        // A sequence of linears with an activation between them, or one linear alone.
        let (number, rest) = match rest.split_once('.') {
            Some((index, rest)) => (
                index.parse::<usize>().ok().filter(|index| index % 2 == 0 && *index < 64)? / 2 + 1,
                rest,
            ),
            None => (1, rest),
        };
        return Some(format!("multi_modal_projector.linear_{number}.{rest}"));
    }
    let own = ["embed_tokens.", "layers.", "norm."];
    let is_own = own.iter().any(|start| rest.starts_with(start)) && name.starts_with("model.");
    is_own.then(|| format!("language_model.model.{rest}"))
}

/// Returns the name of the linear that a tensor of an adapter of the original repository belongs to, as the linear's weight
/// in the hub's files, and true for B.
pub fn original_adapter_name(name: &str) -> Option<(String, bool)> {
    let (linear, half) = name.rsplit_once(".lora_")?;
    let is_b = match half.trim_end_matches(".weight").trim_end_matches(".default") {
        "A" => false,
        "B" => true,
        _ => return None,
    };
    Some((original_name(&format!("{linear}.weight"))?, is_b))
}

/// Returns whether a name in the hub's files is that of the vision encoder.
pub fn is_vision_name(name: &str) -> bool {
    name.starts_with("vision_tower.")
}

/// Returns whether a name in the hub's files is that of a tensor with a row for each token: embedding or head.
pub fn has_vocabulary_rows(name: &str) -> bool {
    name.ends_with("embed_tokens.weight") || name.ends_with("lm_head.weight")
}

/// Returns the config of a CLIP vision encoder from the shapes of its tensors, by their names in the hub's files. All
/// encoders of OpenAI have heads of 64 values.
pub fn clip_config_of_shapes(shapes: &BTreeMap<String, Vec<usize>>) -> Option<Value> {
    const HEAD: usize = 64;
    let shape = |name: &str| shapes.get(&format!("vision_tower.vision_model.{name}"));
    let hidden = *shape("embeddings.class_embedding")?.first()?;
    let patch = *shape("embeddings.patch_embedding.weight")?.last()?;
    let tokens = *shape("embeddings.position_embedding.weight")?.first()?;
    let inner = *shape("encoder.layers.0.mlp.fc1.weight")?.first()?;
    let side = tokens.checked_sub(1)?.isqrt();
    let layers = (0..)
        .take_while(|layer| shape(&format!("encoder.layers.{layer}.mlp.fc1.weight")).is_some())
        .count();
    (side * side + 1 == tokens && hidden % HEAD == 0).then(|| {
        json!({
            "model_type": "clip_vision_model",
            "hidden_act": "quick_gelu",
            "hidden_size": hidden,
            "intermediate_size": inner,
            "num_hidden_layers": layers,
            "num_attention_heads": hidden / HEAD,
            "image_size": side * patch,
            "patch_size": patch,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (name, expected) in [
            ("model.embed_tokens.weight", Some("language_model.model.embed_tokens.weight")),
            (
                "model.layers.3.mlp.up_proj.weight",
                Some("language_model.model.layers.3.mlp.up_proj.weight"),
            ),
            ("lm_head.weight", Some("language_model.lm_head.weight")),
            ("model.mm_projector.0.weight", Some("multi_modal_projector.linear_1.weight")),
            ("model.mm_projector.2.bias", Some("multi_modal_projector.linear_2.bias")),
            ("model.mm_projector.weight", Some("multi_modal_projector.linear_1.weight")),
            ("mm_projector.bias", Some("multi_modal_projector.linear_1.bias")),
            (
                "base_model.model.model.mm_projector.0.weight",
                Some("multi_modal_projector.linear_1.weight"),
            ),
            (
                "model.vision_tower.vision_tower.vision_model.pre_layrnorm.weight",
                Some("vision_tower.vision_model.pre_layrnorm.weight"),
            ),
            ("model.mm_projector.1.weight", None),
            ("model.image_newline", None),
            ("layers.0.weight", None),
        ] {
            assert_eq!(original_name(name).as_deref(), expected, "{name}");
        }
        let adapter = original_adapter_name("base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight");
        let linear = "language_model.model.layers.0.self_attn.q_proj.weight".to_owned();
        assert_eq!(adapter, Some((linear, true)));
    }
}
