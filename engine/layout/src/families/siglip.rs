//! SigLIP's vision encoder: `transformers.SiglipVisionModel`.

use super::clip::{FreshLayer, HUB_LEVEL, layers};
use super::config_reader::ConfigReader;
use super::family::VisionFamily;
use super::vision_rows::VisionRows;
use crate::parameter::{Init, ParamSpec, Part};
use neva_schemas::{Activation, VisionConfig, VisionModelType, VisionPlacement, VisionTower};
use serde_json::{Value, json};

/// The SigLIP family.
#[derive(Debug, Clone, Copy)]
pub struct Siglip;

/// Prefix of the pooling head.
const HEAD: &str = "head.";

impl VisionFamily for Siglip {
    fn hugging_face_type(&self) -> &'static str {
        "siglip_vision_model"
    }

    fn read_config(&self, config: &Value, at: &str, reader: &mut ConfigReader) -> VisionConfig {
        VisionConfig {
            model_type: VisionModelType::Siglip,
            hidden_size: reader.size(config, at, "hidden_size", 768),
            intermediate_size: reader.size(config, at, "intermediate_size", 3072),
            num_hidden_layers: reader.size(config, at, "num_hidden_layers", 12),
            num_attention_heads: reader.size(config, at, "num_attention_heads", 12),
            num_channels: reader.size(config, at, "num_channels", 3),
            image_size: reader.square(config, at, "image_size", 224),
            patch_size: reader.square(config, at, "patch_size", 16),
            hidden_act: Some(reader.activation(config, at, "hidden_act").unwrap_or(Activation::GeluPytorchTanh)),
            layer_norm_eps: reader.number(config, at, "layer_norm_eps", 1e-6),
            vision_use_head: reader.boolean(config, at, "vision_use_head", true),
            ..VisionConfig::default()
        }
    }

    fn write_config(&self, config: &VisionConfig) -> Value {
        json!({
            "model_type": "siglip_vision_model",
            "hidden_act": config.activation(),
            "hidden_size": config.hidden_size,
            "intermediate_size": config.intermediate_size,
            "num_hidden_layers": config.num_hidden_layers,
            "num_attention_heads": config.num_attention_heads,
            "num_channels": config.num_channels,
            "image_size": config.image_size,
            "patch_size": config.patch_size,
            "layer_norm_eps": config.layer_norm_eps,
            "vision_use_head": config.vision_use_head,
        })
    }

    /// Initial values are those of transformers' `_init_weights`. Layers after the selected hidden states and the pooling
    /// head are stored, for a complete export, but never run. A LLaVA does not run the post-norm either: a hidden state is
    /// the output of a layer.
    fn parameters(&self, tower: &VisionTower, prefix: &str, placement: VisionPlacement) -> Vec<ParamSpec> {
        let config = &tower.config;
        let (h, f) = (config.hidden_size, config.intermediate_size);
        let width = Init::Normal {
            std: 1.0 / (h as f64).sqrt(),
        };
        let mut rows = VisionRows::new(Part::Vision, prefix, placement);
        let patch = [h, config.num_channels, config.patch_size, config.patch_size];
        let inputs = config.num_channels * config.patch_size * config.patch_size;
        let lecun = Init::Normal {
            std: 1.0 / (inputs as f64).sqrt(),
        };
        rows.whole("embeddings.patch_embedding.weight", &patch, lecun, true);
        rows.whole("embeddings.patch_embedding.bias", &[h], Init::Zeros, true);
        rows.whole("embeddings.position_embedding.weight", &[config.tokens(), h], width, true);
        let fresh = FreshLayer {
            query: xavier(h, h),
            output: xavier(h, h),
            fc1: xavier(f, h),
            fc2: xavier(h, f),
            mlp_bias: Init::Normal { std: 1e-6 },
        };
        layers(&mut rows, tower, fresh);
        rows.layer_norm("post_layernorm", h, tower.post_norm);
        if config.vision_use_head {
            head(&mut rows, h, f);
        }
        rows.finish()
    }

    fn hub_name(&self, name: &str) -> String {
        format!("{HUB_LEVEL}{name}")
    }

    fn canonical_name(&self, name: &str) -> String {
        name.strip_prefix(HUB_LEVEL).unwrap_or(name).to_owned()
    }

    fn part_types(&self) -> &'static [&'static str] {
        &["siglip_vision_model", "siglip"]
    }

    fn part_config(&self, config: &Value) -> Option<Value> {
        match config.get("model_type").and_then(Value::as_str) {
            Some("siglip_vision_model") => Some(config.clone()),
            Some("siglip") => config.get("vision_config").cloned(),
            _ => None,
        }
    }

    fn part_name(&self, name: &str) -> Option<String> {
        let rest = name.strip_prefix(HUB_LEVEL).unwrap_or(name);
        let own = ["embeddings.", "encoder.", "post_layernorm.", HEAD];
        own.iter().any(|start| rest.starts_with(start)).then(|| rest.to_owned())
    }

    /// Ignores the text encoder of `transformers.SiglipModel`.
    fn is_beside(&self, name: &str) -> bool {
        ["text_model.", "logit_scale", "logit_bias"]
            .iter()
            .any(|start| name.starts_with(start))
    }

    /// Ignores also the pooling head if the model does not have it.
    fn is_derived(&self, name: &str, config: &VisionConfig) -> bool {
        let below = |level: &str| name.split_once(level).map(|(_, rest)| rest);
        let rest = below("vision_tower.").unwrap_or(name);
        let rest = rest.strip_prefix(HUB_LEVEL).unwrap_or(rest);
        name.ends_with(".position_ids") || rest.starts_with(HEAD) && !config.vision_use_head
    }
}

/// Returns `torch.nn.init.xavier_uniform_`.
fn xavier(output: usize, input: usize) -> Init {
    Init::Uniform {
        bound: (6.0 / (output + input) as f64).sqrt(),
    }
}

/// Adds the pooling head, `transformers.SiglipMultiheadAttentionPoolingHead`.
fn head(rows: &mut VisionRows<'_>, h: usize, f: usize) {
    let mut add = |name: &str, shape: &[usize], init: Init| rows.whole(&format!("{HEAD}{name}"), shape, init, false);
    add("probe", &[1, 1, h], xavier(h, h));
    add("attention.in_proj_weight", &[3 * h, h], xavier(h, h));
    add("attention.in_proj_bias", &[3 * h], Init::Zeros);
    add("attention.out_proj.weight", &[h, h], xavier(h, h));
    add("attention.out_proj.bias", &[h], Init::Zeros);
    add("layernorm.weight", &[h], Init::Ones);
    add("layernorm.bias", &[h], Init::Zeros);
    add("mlp.fc1.weight", &[f, h], xavier(f, h));
    add("mlp.fc1.bias", &[f], Init::Zeros);
    add("mlp.fc2.weight", &[h, f], xavier(h, f));
    add("mlp.fc2.bias", &[h], Init::Zeros);
}
