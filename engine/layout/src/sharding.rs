//! How tensor parallelism cuts a LLaVA model, as one table (Megatron-LM, arXiv:1909.08053).

use crate::parameter::{Cut, ParamSpec};
use neva_schemas::{MegatronStrategy, VisionPlacement};

/// Suffix of a language-model parameter, and its cut.
const LANGUAGE: &[(&str, Cut)] = &[
    ("embed_tokens.weight", Cut::Vocab),
    ("self_attn.q_proj.weight", Cut::Column),
    ("self_attn.k_proj.weight", Cut::Column),
    ("self_attn.v_proj.weight", Cut::Column),
    ("self_attn.o_proj.weight", Cut::Row),
    ("mlp.gate_proj.weight", Cut::Column),
    ("mlp.up_proj.weight", Cut::Column),
    ("mlp.down_proj.weight", Cut::Row),
    ("lm_head.weight", Cut::Vocab),
];

/// The same of the vision encoder and the projector, where they are cut at all: what is not in the table (norms,
/// embeddings, the biases of row-cut maps) is whole on every rank.
const VISION: &[(&str, Cut)] = &[
    ("self_attn.q_proj.weight", Cut::Column),
    ("self_attn.q_proj.bias", Cut::Column),
    ("self_attn.k_proj.weight", Cut::Column),
    ("self_attn.k_proj.bias", Cut::Column),
    ("self_attn.v_proj.weight", Cut::Column),
    ("self_attn.v_proj.bias", Cut::Column),
    ("self_attn.out_proj.weight", Cut::Row),
    ("mlp.fc1.weight", Cut::Column),
    ("mlp.fc1.bias", Cut::Column),
    ("mlp.fc2.weight", Cut::Row),
    ("multi_modal_projector.linear_1.weight", Cut::Column),
    ("multi_modal_projector.linear_1.bias", Cut::Column),
    ("multi_modal_projector.linear_2.weight", Cut::Row),
];

/// Cut of the parameter `name` (canonical spelling).
pub fn cut_of(name: &str, placement: VisionPlacement) -> Cut {
    let language = name.starts_with("model.language_model.") || name.starts_with("lm_head.");
    let table = match placement {
        _ if language => LANGUAGE,
        VisionPlacement::Cut if in_vision(name) => VISION,
        _ => &[],
    };
    let row = table.iter().find(|(suffix, _)| name.ends_with(suffix));
    row.map_or(Cut::Replicate, |(_, cut)| *cut)
}

/// Whether a parameter belongs to the vision encoder or to the projector, adapters included.
fn in_vision(name: &str) -> bool {
    ["model.vision_tower.", "model.multi_modal_projector."]
        .iter()
        .any(|part| name.starts_with(part))
}

/// Whether a replicated parameter works on the parts of sequences that sequence parallelism leaves on each rank: its
/// gradient is a partial sum there. These are the language model's norms, and the halves of adapters that are whole
/// on every rank.
pub fn in_sequence_region(spec: &ParamSpec) -> bool {
    spec.cut == Cut::Replicate && spec.name.starts_with("model.language_model.")
}

/// Whether a replicated parameter works on the rank's own share of the pictures, where these are shared out: its
/// gradient is a partial sum there. These are the vision encoder, the projector and their adapters.
pub fn in_shared_vision(spec: &ParamSpec) -> bool {
    spec.cut == Cut::Replicate && in_vision(&spec.name)
}

/// Whether a rank's gradient of `spec` is a part of a sum over the tensor axis, because each rank computes with the
/// parameter on other positions or on other pictures. Where the vision encoder is cut, each sees the same pictures.
pub fn partial_over_tensor(spec: &ParamSpec, strategy: &MegatronStrategy) -> bool {
    let shared = strategy.vision_placement == VisionPlacement::Shared;
    strategy.sequence_parallel && in_sequence_region(spec) || shared && in_shared_vision(spec)
}
