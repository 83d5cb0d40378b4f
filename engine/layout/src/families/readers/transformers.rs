//! Names of `transformers`: `LlavaForConditionalGeneration`, `InternVLForConditionalGeneration` and `AutoModelForCausalLM`.
//!
//! Read from transformers 4.49.0 (`models/llava/modeling_llava.py`: the names of the modules are those of the files) and
//! 5.23.0 (`conversion_mapping.py`: `LlavaModel`, `llava`, `internvl`; `CLIPVisionModel` and `SiglipVisionModel` lose the
//! prefix `vision_model`). tests/transformers loads exports with both.

use super::super::table::ModelTable;
use neva_schemas::NameLayout;

/// Vision encoders whose modules are below `vision_model` in transformers 4.
const BELOW_VISION_MODEL: &[&str] = &["clip_vision_model", "siglip_vision_model"];

/// Prefixes of modules in transformers 4, which 5 renames, and of the same modules in 5.
const RENAMED: &[(&str, &str)] = &[
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
    ("vision_tower.", "model.vision_tower."),
];

impl ModelTable {
    /// Returns the canonical name of what a tensor is in the model, if every version of transformers that `names` stands for
    /// puts it there.
    pub(super) fn in_transformers(&self, names: NameLayout, key: &str) -> Option<String> {
        let Some(tower) = &self.description.vision else {
            // The modules of a language model have the same names in all versions.
            return ["model.", "lm_head."]
                .iter()
                .any(|prefix| key.starts_with(prefix))
                .then(|| key.to_owned());
        };
        if names == NameLayout::Newer {
            return RENAMED.iter().any(|(_, newer)| key.starts_with(newer)).then(|| key.to_owned());
        }
        let (old, newer) = RENAMED.iter().find(|(old, _)| key.starts_with(old))?;
        let mut rest = &key[old.len()..];
        if old.starts_with("vision_tower") && BELOW_VISION_MODEL.contains(&tower.config.model_type.name()) {
            rest = rest.strip_prefix("vision_model.")?;
        }
        Some(format!("{newer}{rest}"))
    }
    /// Returns the name of a module in the memory of transformers.
    pub fn module_in_transformers(&self, names: NameLayout, canonical: &str) -> String {
        let Some(tower) = self.description.vision.as_ref().filter(|_| names == NameLayout::Original) else {
            return canonical.to_owned();
        };
        let Some((old, newer)) = RENAMED.iter().find(|(_, newer)| canonical.starts_with(newer)) else {
            return canonical.to_owned();
        };
        let below = old.starts_with("vision_tower") && BELOW_VISION_MODEL.contains(&tower.config.model_type.name());
        let infix = if below { "vision_model." } else { "" };
        format!("{old}{infix}{}", &canonical[newer.len()..])
    }
}
