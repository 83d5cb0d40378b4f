//! CLIP's vision encoder: `transformers.CLIPVisionModel`.

use super::config_reader::ConfigReader;
use super::family::VisionFamily;
use super::vision_rows::{LinearRow, VisionRows};
use crate::parameter::{Cut, Init, ParamSpec, Part};
use neva_schemas::{Activation, VisionConfig, VisionModelType, VisionPlacement, VisionTower};
use serde_json::{Value, json};

/// The CLIP family.
#[derive(Debug, Clone, Copy)]
pub struct Clip;

/// Prefix of names in the hub's files that transformers 5.x does not have.
pub(super) const HUB_LEVEL: &str = "vision_model.";

impl VisionFamily for Clip {
    fn hugging_face_type(&self) -> &'static str {
        "clip_vision_model"
    }

    fn read_config(&self, config: &Value, at: &str, reader: &mut ConfigReader) -> VisionConfig {
        VisionConfig {
            model_type: VisionModelType::Clip,
            hidden_size: reader.size(config, at, "hidden_size", 768),
            intermediate_size: reader.size(config, at, "intermediate_size", 3072),
            num_hidden_layers: reader.size(config, at, "num_hidden_layers", 12),
            num_attention_heads: reader.size(config, at, "num_attention_heads", 12),
            num_channels: reader.size(config, at, "num_channels", 3),
            image_size: reader.square(config, at, "image_size", 224),
            patch_size: reader.square(config, at, "patch_size", 32),
            hidden_act: Some(reader.activation(config, at, "hidden_act").unwrap_or(Activation::QuickGelu)),
            layer_norm_eps: reader.number(config, at, "layer_norm_eps", 1e-5),
            initializer_range: reader.number(config, at, "initializer_range", 0.02),
            ..VisionConfig::default()
        }
    }

    fn write_config(&self, config: &VisionConfig) -> Value {
        json!({
            "model_type": "clip_vision_model",
            "hidden_act": config.activation(),
            "hidden_size": config.hidden_size,
            "intermediate_size": config.intermediate_size,
            "num_hidden_layers": config.num_hidden_layers,
            "num_attention_heads": config.num_attention_heads,
            "num_channels": config.num_channels,
            "image_size": config.image_size,
            "patch_size": config.patch_size,
            "layer_norm_eps": config.layer_norm_eps,
            "initializer_range": config.initializer_range,
        })
    }

    /// Initial values are those of transformers' `_init_weights`. Layers after the selected hidden states and the post-norm
    /// are stored, for a complete export, but never run.
    fn parameters(&self, tower: &VisionTower, prefix: &str, placement: VisionPlacement) -> Vec<ParamSpec> {
        let config = &tower.config;
        let h = config.hidden_size;
        let width = 1.0 / (h as f64).sqrt();
        let depth = 1.0 / (2.0 * config.num_hidden_layers as f64).sqrt();
        let normal = |std: f64| Init::Normal { std };
        let range = normal(config.initializer_range);
        let mut rows = VisionRows::new(Part::Vision, prefix, placement);
        rows.whole("embeddings.class_embedding", &[h], normal(width), true);
        let patch = [h, config.num_channels, config.patch_size, config.patch_size];
        rows.whole("embeddings.patch_embedding.weight", &patch, range, true);
        rows.whole("embeddings.position_embedding.weight", &[config.tokens(), h], range, true);
        rows.layer_norm("pre_layrnorm", h, true);
        let fresh = FreshLayer {
            query: normal(width * depth),
            output: normal(width),
            fc1: normal(width / 2f64.sqrt()),
            fc2: normal(width * depth),
            mlp_bias: Init::Zeros,
        };
        layers(&mut rows, tower, fresh);
        rows.layer_norm("post_layernorm", h, false);
        rows.finish()
    }

    fn hub_name(&self, name: &str) -> String {
        format!("{HUB_LEVEL}{name}")
    }

    fn canonical_name(&self, name: &str) -> String {
        name.strip_prefix(HUB_LEVEL).unwrap_or(name).to_owned()
    }

    fn part_types(&self) -> &'static [&'static str] {
        &["clip_vision_model", "clip"]
    }

    fn part_config(&self, config: &Value) -> Option<Value> {
        match config.get("model_type").and_then(Value::as_str) {
            Some("clip_vision_model") => Some(config.clone()),
            Some("clip") => config.get("vision_config").cloned(),
            _ => None,
        }
    }

    fn part_name(&self, name: &str) -> Option<String> {
        let rest = name.strip_prefix(HUB_LEVEL).unwrap_or(name);
        let own = ["embeddings.", "pre_layrnorm.", "encoder.", "post_layernorm."];
        own.iter().any(|start| rest.starts_with(start)).then(|| rest.to_owned())
    }

    /// Ignores the text encoder of `transformers.CLIPModel`.
    fn is_beside(&self, name: &str) -> bool {
        ["text_model.", "text_projection.", "visual_projection.", "logit_scale"]
            .iter()
            .any(|start| name.starts_with(start))
    }

    fn is_derived(&self, name: &str, _: &VisionConfig) -> bool {
        name.ends_with(".position_ids")
    }
}

/// Initial values of a layer's linears.
#[derive(Debug, Clone, Copy)]
pub(super) struct FreshLayer {
    /// Query, key and value.
    pub(super) query: Init,
    pub(super) output: Init,
    pub(super) fc1: Init,
    pub(super) fc2: Init,
    pub(super) mlp_bias: Init,
}

/// Adds the layers of CLIP and of SigLIP.
pub(super) fn layers(rows: &mut VisionRows<'_>, tower: &VisionTower, fresh: FreshLayer) {
    let (h, f) = (tower.config.hidden_size, tower.config.intermediate_size);
    for layer in 0..tower.config.num_hidden_layers {
        let used = layer < tower.layers_used();
        let layer = format!("encoder.layers.{layer}");
        let linear = |rows: &mut VisionRows<'_>, name: &str, shape: [usize; 2], init: Init, bias: Init, cut: Cut| {
            let bias = Some(bias);
            let row = LinearRow {
                shape,
                init,
                bias,
                cut,
                used,
            };
            rows.linear(&format!("{layer}.{name}"), row);
        };
        rows.layer_norm(&format!("{layer}.layer_norm1"), h, used);
        for name in ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"] {
            linear(rows, name, [h, h], fresh.query, Init::Zeros, Cut::Column);
        }
        linear(rows, "self_attn.out_proj", [h, h], fresh.output, Init::Zeros, Cut::Row);
        rows.layer_norm(&format!("{layer}.layer_norm2"), h, used);
        linear(rows, "mlp.fc1", [f, h], fresh.fc1, fresh.mlp_bias, Cut::Column);
        linear(rows, "mlp.fc2", [h, f], fresh.fc2, fresh.mlp_bias, Cut::Row);
    }
}
