//! InternViT, the vision encoder of InternVL: `transformers.InternVLVisionModel`.

use super::config_reader::ConfigReader;
use super::family::VisionFamily;
use super::vision_rows::{LinearRow, VisionRows};
use crate::parameter::{Cut, Init, ParamSpec, Part};
use neva_schemas::{Activation, VisionConfig, VisionModelType, VisionNorm, VisionPlacement, VisionTower};
use serde_json::{Value, json};

/// The InternViT family.
#[derive(Debug, Clone, Copy)]
pub struct InternVit;

impl VisionFamily for InternVit {
    fn hugging_face_type(&self) -> &'static str {
        "internvl_vision"
    }

    fn read_config(&self, config: &Value, at: &str, reader: &mut ConfigReader) -> VisionConfig {
        reader.expect(config, at, "norm_type", &["layer_norm", "rms_norm"], "layer_norm");
        let rms_norm = config.get("norm_type").and_then(Value::as_str) == Some("rms_norm");
        if reader.boolean(config, at, "use_mask_token", false) {
            reader.problem(format!("`{at}use_mask_token` is true, but InternViT has no mask token here"));
        }
        if !reader.boolean(config, at, "use_absolute_position_embeddings", true) {
            reader.problem(format!(
                "`{at}use_absolute_position_embeddings` is false, this program's InternViT has position embeddings"
            ));
        }
        VisionConfig {
            model_type: VisionModelType::InternVit,
            hidden_size: reader.size(config, at, "hidden_size", 1024),
            intermediate_size: reader.size(config, at, "intermediate_size", 4096),
            num_hidden_layers: reader.size(config, at, "num_hidden_layers", 24),
            num_attention_heads: reader.size(config, at, "num_attention_heads", 16),
            num_channels: reader.size(config, at, "num_channels", 3),
            image_size: reader.square(config, at, "image_size", 448),
            patch_size: reader.square(config, at, "patch_size", 14),
            hidden_act: Some(reader.activation(config, at, "hidden_act").unwrap_or(Activation::Gelu)),
            layer_norm_eps: reader.number(config, at, "layer_norm_eps", 1e-6),
            initializer_range: reader.number(config, at, "initializer_range", 0.02),
            attention_bias: reader.boolean(config, at, "attention_bias", false),
            norm_type: if rms_norm { VisionNorm::RmsNorm } else { VisionNorm::LayerNorm },
            use_qk_norm: reader.boolean(config, at, "use_qk_norm", false),
            layer_scale_init_value: reader.number(config, at, "layer_scale_init_value", 0.1),
            use_mean_pooling: reader.boolean(config, at, "use_mean_pooling", true),
            vision_use_head: false,
        }
    }

    fn write_config(&self, config: &VisionConfig) -> Value {
        json!({
            "model_type": "internvl_vision",
            "hidden_act": config.activation(),
            "hidden_size": config.hidden_size,
            "intermediate_size": config.intermediate_size,
            "num_hidden_layers": config.num_hidden_layers,
            "num_attention_heads": config.num_attention_heads,
            "num_channels": config.num_channels,
            "image_size": [config.image_size, config.image_size],
            "patch_size": [config.patch_size, config.patch_size],
            "layer_norm_eps": config.layer_norm_eps,
            "initializer_range": config.initializer_range,
            "attention_bias": config.attention_bias,
            "norm_type": config.norm_type,
            "use_qk_norm": config.use_qk_norm,
            "layer_scale_init_value": config.layer_scale_init_value,
            "use_mean_pooling": config.use_mean_pooling,
            "use_absolute_position_embeddings": true,
            "use_mask_token": false,
        })
    }

    /// Initial values are those of transformers' `_init_weights`. Layers after the selected hidden states are stored, for a
    /// complete export, but never run.
    fn parameters(&self, tower: &VisionTower, prefix: &str, placement: VisionPlacement) -> Vec<ParamSpec> {
        let config = &tower.config;
        let (h, f) = (config.hidden_size, config.intermediate_size);
        let init = Init::Normal {
            std: config.initializer_range,
        };
        let scale = Init::Constant {
            value: config.layer_scale_init_value,
        };
        let mut rows = VisionRows::new(Part::Vision, prefix, placement);
        let patch = [h, config.num_channels, config.patch_size, config.patch_size];
        rows.whole("embeddings.cls_token", &[1, 1, h], Init::Zeros, true);
        rows.whole("embeddings.position_embeddings", &[1, config.tokens(), h], Init::Zeros, true);
        rows.whole("embeddings.patch_embeddings.projection.weight", &patch, init, true);
        rows.whole("embeddings.patch_embeddings.projection.bias", &[h], Init::Zeros, true);
        for layer in 0..config.num_hidden_layers {
            let used = layer < tower.layers_used();
            let layer = format!("encoder.layer.{layer}");
            let linear = |rows: &mut VisionRows<'_>, name: &str, shape: [usize; 2], bias: bool, cut: Cut| {
                let bias = bias.then_some(Init::Zeros);
                let row = LinearRow {
                    shape,
                    init,
                    bias,
                    cut,
                    used,
                };
                rows.linear(&format!("{layer}.{name}"), row);
            };
            let norm = |rows: &mut VisionRows<'_>, name: &str| match config.norm_type {
                VisionNorm::LayerNorm => rows.layer_norm(&format!("{layer}.{name}"), h, used),
                VisionNorm::RmsNorm => rows.rms_norm(&format!("{layer}.{name}"), h, used),
            };
            rows.whole(&format!("{layer}.lambda_1"), &[h], scale, used);
            rows.whole(&format!("{layer}.lambda_2"), &[h], scale, used);
            norm(&mut rows, "layernorm_before");
            for name in ["attention.q_proj", "attention.k_proj", "attention.v_proj"] {
                linear(&mut rows, name, [h, h], config.attention_bias, Cut::Column);
            }
            if config.use_qk_norm {
                for name in ["attention.q_norm.weight", "attention.k_norm.weight"] {
                    rows.add(&format!("{layer}.{name}"), &[h], Init::Ones, Cut::Column, used);
                }
            }
            linear(&mut rows, "attention.projection_layer", [h, h], true, Cut::Row);
            norm(&mut rows, "layernorm_after");
            linear(&mut rows, "mlp.fc1", [f, h], true, Cut::Column);
            linear(&mut rows, "mlp.fc2", [h, f], true, Cut::Row);
        }
        if !config.use_mean_pooling {
            rows.layer_norm("layernorm", h, tower.post_norm);
        }
        rows.finish()
    }

    fn hub_name(&self, name: &str) -> String {
        name.to_owned()
    }

    fn canonical_name(&self, name: &str) -> String {
        name.to_owned()
    }

    fn part_types(&self) -> &'static [&'static str] {
        &["internvl_vision", NATIVE]
    }

    fn part_config(&self, config: &Value) -> Option<Value> {
        match config.get("model_type").and_then(Value::as_str) {
            Some("internvl_vision") => Some(config.clone()),
            Some(NATIVE) => {
                let mut own = config.clone();
                own["model_type"] = "internvl_vision".into();
                for (theirs, ours) in NATIVE_FIELDS {
                    if let Some(value) = config.get(theirs) {
                        own[ours] = value.clone();
                    }
                }
                Some(own)
            }
            _ => None,
        }
    }

    fn part_name(&self, name: &str) -> Option<String> {
        let own = ["embeddings.", "encoder.", "layernorm."];
        own.iter().any(|start| name.starts_with(start)).then(|| of_native(name))
    }

    fn fused_part_names(&self, name: &str) -> Vec<String> {
        let Some((layer, kind)) = name.split_once(".attn.qkv.") else {
            return Vec::new();
        };
        let linear = |linear: &str| format!("{}.attention.{linear}.{kind}", of_native(layer));
        ["q_proj", "k_proj", "v_proj"].map(linear).into()
    }

    fn is_beside(&self, _: &str) -> bool {
        false
    }

    fn is_derived(&self, _: &str, _: &VisionConfig) -> bool {
        false
    }
}

/// `model_type` of OpenGVLab's InternViT, of any size.
const NATIVE: &str = "intern_vit_6b";
/// Fields of its config, with the names of transformers.
const NATIVE_FIELDS: [(&str, &str); 2] = [("qk_normalization", "use_qk_norm"), ("qkv_bias", "attention_bias")];
/// Parts of its parameter names, with those of transformers.
const NATIVE_NAMES: [(&str, &str); 10] = [
    ("embeddings.class_embedding", "embeddings.cls_token"),
    ("embeddings.patch_embedding.", "embeddings.patch_embeddings.projection."),
    ("encoder.layers.", "encoder.layer."),
    (".ls1", ".lambda_1"),
    (".ls2", ".lambda_2"),
    (".norm1.", ".layernorm_before."),
    (".norm2.", ".layernorm_after."),
    (".attn.proj.", ".attention.projection_layer."),
    (".attn.", ".attention."),
    ("embeddings.position_embedding", "embeddings.position_embeddings"),
];

/// Returns the name in transformers for a name that may be OpenGVLab's.
fn of_native(name: &str) -> String {
    if name == "embeddings.position_embeddings" {
        return name.to_owned();
    }
    NATIVE_NAMES
        .iter()
        .fold(name.to_owned(), |name, (theirs, ours)| name.replacen(theirs, ours, 1))
}
