//! Names of LLaVA's own code (`llava/model/language_model/llava_llama.py`, `multimodal_projector/builder.py`,
//! `multimodal_encoder/clip_encoder.py` of version 1.2.2).
//!
//! The projector is a sequence of linears and activations, so its linears have the numbers 0, 2, 4 and so on.

use super::super::table::ModelTable;

impl ModelTable {
    /// Returns the canonical name of what a tensor is in LLaVA's model.
    pub(super) fn in_llava_code(&self, key: &str) -> Option<String> {
        if let Some(rest) = key.strip_prefix("model.vision_tower.vision_tower.vision_model.") {
            return Some(format!("model.vision_tower.{rest}"));
        }
        if let Some(rest) = key.strip_prefix("model.mm_projector.") {
            let Some((number, tensor)) = rest.split_once('.') else {
                return Some(format!("model.multi_modal_projector.linear_1.{rest}"));
            };
            let number: usize = number.parse().ok()?;
            return number
                .is_multiple_of(2)
                .then(|| format!("model.multi_modal_projector.linear_{}.{tensor}", number / 2 + 1));
        }
        if let Some(rest) = key.strip_prefix("model.") {
            return ["embed_tokens.", "layers.", "norm."]
                .iter()
                .any(|prefix| rest.starts_with(prefix))
                .then(|| format!("model.language_model.{rest}"));
        }
        key.starts_with("lm_head.").then(|| key.to_owned())
    }
}
