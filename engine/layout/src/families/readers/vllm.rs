//! Names that vLLM's loader looks for. vLLM ignores an adapter whose names match no module, and then serves the base.
//!
//! Read from vLLM 0.33.0: `hf_to_vllm_mapper`, `packed_modules_mapping` and the modules of `models/llava.py`, `clip.py`,
//! `siglip.py`, `llama.py`, `mistral.py`, `qwen2.py`, `nemotron.py`; `parse_fine_tuned_lora_name` and
//! `get_supported_lora_modules` of `lora/utils.py`; `lora/lora_model.py`. vLLM itself was not run.

use super::super::table::ModelTable;
use crate::lora::wildcard;

/// Version of vLLM that the table was read from.
pub const VLLM_VERSION: &str = "0.33.0";

/// `hf_to_vllm_mapper` of `LlavaForConditionalGeneration`: the first prefix of a name is replaced.
const PREFIXES: &[(&str, &str)] = &[
    ("model.language_model.", "language_model.model."),
    ("model.vision_tower.", "vision_tower."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("lm_head.", "language_model.lm_head."),
];

/// Tensors of a decoder, below `language_model.` in a model with images. `*` is the number of a layer. The loader joins
/// q, k and v to `qkv_proj`, gate and up to `gate_up_proj` (`orig_to_new_stacked`).
const DECODER: &[&str] = &[
    "model.embed_tokens.weight",
    "model.layers.*.input_layernorm.weight",
    "model.layers.*.input_layernorm.bias",
    "model.layers.*.self_attn.q_proj.weight",
    "model.layers.*.self_attn.q_proj.bias",
    "model.layers.*.self_attn.k_proj.weight",
    "model.layers.*.self_attn.k_proj.bias",
    "model.layers.*.self_attn.v_proj.weight",
    "model.layers.*.self_attn.v_proj.bias",
    "model.layers.*.self_attn.o_proj.weight",
    "model.layers.*.self_attn.o_proj.bias",
    "model.layers.*.post_attention_layernorm.weight",
    "model.layers.*.post_attention_layernorm.bias",
    "model.layers.*.mlp.gate_proj.weight",
    "model.layers.*.mlp.gate_proj.bias",
    "model.layers.*.mlp.up_proj.weight",
    "model.layers.*.mlp.up_proj.bias",
    "model.layers.*.mlp.down_proj.weight",
    "model.layers.*.mlp.down_proj.bias",
    "model.norm.weight",
    "model.norm.bias",
    "lm_head.weight",
];

/// Tensors of `LlavaMultiModalProjector`.
const PROJECTOR: &[&str] = &[
    "multi_modal_projector.linear_1.weight",
    "multi_modal_projector.linear_1.bias",
    "multi_modal_projector.linear_2.weight",
    "multi_modal_projector.linear_2.bias",
];

/// Tensors of `CLIPVisionModel` and `SiglipVisionModel`. Layers that the model does not use are dropped.
const VISION: &[&str] = &[
    "vision_tower.vision_model.embeddings.class_embedding",
    "vision_tower.vision_model.embeddings.patch_embedding.weight",
    "vision_tower.vision_model.embeddings.patch_embedding.bias",
    "vision_tower.vision_model.embeddings.position_embedding.weight",
    "vision_tower.vision_model.pre_layrnorm.weight",
    "vision_tower.vision_model.pre_layrnorm.bias",
    "vision_tower.vision_model.post_layernorm.weight",
    "vision_tower.vision_model.post_layernorm.bias",
    "vision_tower.vision_model.encoder.layers.*.layer_norm1.weight",
    "vision_tower.vision_model.encoder.layers.*.layer_norm1.bias",
    "vision_tower.vision_model.encoder.layers.*.layer_norm2.weight",
    "vision_tower.vision_model.encoder.layers.*.layer_norm2.bias",
    "vision_tower.vision_model.encoder.layers.*.self_attn.q_proj.weight",
    "vision_tower.vision_model.encoder.layers.*.self_attn.q_proj.bias",
    "vision_tower.vision_model.encoder.layers.*.self_attn.k_proj.weight",
    "vision_tower.vision_model.encoder.layers.*.self_attn.k_proj.bias",
    "vision_tower.vision_model.encoder.layers.*.self_attn.v_proj.weight",
    "vision_tower.vision_model.encoder.layers.*.self_attn.v_proj.bias",
    "vision_tower.vision_model.encoder.layers.*.self_attn.out_proj.weight",
    "vision_tower.vision_model.encoder.layers.*.self_attn.out_proj.bias",
    "vision_tower.vision_model.encoder.layers.*.mlp.fc1.weight",
    "vision_tower.vision_model.encoder.layers.*.mlp.fc1.bias",
    "vision_tower.vision_model.encoder.layers.*.mlp.fc2.weight",
    "vision_tower.vision_model.encoder.layers.*.mlp.fc2.bias",
    "vision_tower.vision_model.head.*",
];

/// Modules that take an adapter: `LinearBase`, by their names before `packed_modules_mapping` joins them. Those of vision
/// encoder and projector only with `--enable-tower-connector-lora`.
const ADAPTED: &[&str] = &[
    "model.layers.*.self_attn.q_proj",
    "model.layers.*.self_attn.k_proj",
    "model.layers.*.self_attn.v_proj",
    "model.layers.*.self_attn.o_proj",
    "model.layers.*.mlp.gate_proj",
    "model.layers.*.mlp.up_proj",
    "model.layers.*.mlp.down_proj",
];
const ADAPTED_BESIDE: &[&str] = &[
    "multi_modal_projector.linear_1",
    "multi_modal_projector.linear_2",
    "vision_tower.vision_model.encoder.layers.*.self_attn.q_proj",
    "vision_tower.vision_model.encoder.layers.*.self_attn.k_proj",
    "vision_tower.vision_model.encoder.layers.*.self_attn.v_proj",
    "vision_tower.vision_model.encoder.layers.*.self_attn.out_proj",
    "vision_tower.vision_model.encoder.layers.*.mlp.fc1",
    "vision_tower.vision_model.encoder.layers.*.mlp.fc2",
];

/// Prefix of the decoder in a model with images.
const LANGUAGE_MODEL: &str = "language_model.";

impl ModelTable {
    /// Returns the canonical name of the parameter that a tensor becomes in vLLM's model.
    pub(super) fn in_vllm(&self, key: &str) -> Option<String> {
        if self.description.vision.is_none() {
            return is_listed(DECODER, key).then(|| key.to_owned());
        }
        let name = mapped(key);
        if let Some(rest) = name.strip_prefix(LANGUAGE_MODEL) {
            let is_head = rest.starts_with("lm_head.");
            return is_listed(DECODER, rest).then(|| match rest.strip_prefix("model.") {
                Some(below) if !is_head => format!("model.language_model.{below}"),
                _ => rest.to_owned(),
            });
        }
        if !is_listed(PROJECTOR, &name) && !is_listed(VISION, &name) {
            return None;
        }
        Some(format!("model.{}", name.replacen("vision_tower.vision_model.", "vision_tower.", 1)))
    }

    /// Returns whether vLLM's model has a module of this name that takes an adapter.
    pub(super) fn is_adapted_in_vllm(&self, module: &str) -> bool {
        if self.description.vision.is_none() {
            return is_listed(ADAPTED, module);
        }
        let name = mapped(module);
        let decoder = name.strip_prefix(LANGUAGE_MODEL);
        decoder.is_some_and(|rest| is_listed(ADAPTED, rest)) || is_listed(ADAPTED_BESIDE, &name)
    }
}

fn mapped(key: &str) -> String {
    let found = PREFIXES
        .iter()
        .find_map(|(old, new)| Some(format!("{new}{}", key.strip_prefix(old)?)));
    found.unwrap_or_else(|| key.to_owned())
}

/// Returns whether a name is in a list, where `*` stands for one component.
fn is_listed(list: &[&str], name: &str) -> bool {
    let parts = |text: &str| text.matches('.').count();
    list.iter()
        .any(|pattern| wildcard(pattern.as_bytes(), name.as_bytes()) && (pattern.ends_with(".*") || parts(pattern) == parts(name)))
}
