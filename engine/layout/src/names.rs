//! One spelling of tensor names out of the several that Hugging Face writes.

/// Canonical name of a tensor of a LLaVA checkpoint, or `None` for a foreign one. Accepted are
/// layouts A (hub files), B (in memory, transformers 4.52 to 4.57) and C (in memory, 5.x; canonical):
///
/// | A | B | C |
/// |---|---|---|
/// | `language_model.model.*` | `model.language_model.*` | `model.language_model.*` |
/// | `language_model.lm_head.*` | `lm_head.*` | `lm_head.*` |
/// | `multi_modal_projector.*` | `model.multi_modal_projector.*` | `model.multi_modal_projector.*` |
/// | `vision_tower.vision_model.*` | `model.vision_tower.vision_model.*` | `model.vision_tower.*` |
pub fn canonical_name(name: &str) -> Option<String> {
    let name = name.strip_prefix("model.").unwrap_or(name);
    if let Some(rest) = name.strip_prefix("vision_tower.") {
        return Some(format!("model.vision_tower.{}", rest.strip_prefix("vision_model.").unwrap_or(rest)));
    }
    if let Some(rest) = name.strip_prefix("multi_modal_projector.") {
        return Some(format!("model.multi_modal_projector.{rest}"));
    }
    if let Some(rest) = name.strip_prefix("language_model.") {
        let rest = rest.strip_prefix("model.").unwrap_or(rest);
        return Some(if rest.starts_with("lm_head.") {
            rest.to_owned()
        } else {
            format!("model.language_model.{rest}")
        });
    }
    name.starts_with("lm_head.").then(|| name.to_owned())
}

/// Name of a tensor in the files of Hugging Face's hub, layout A of [`canonical_name`], of its canonical one.
pub fn hub_name(canonical: &str) -> String {
    match canonical.strip_prefix("model.") {
        Some(rest) if rest.starts_with("language_model.") => rest.replacen("language_model.", "language_model.model.", 1),
        Some(rest) if rest.starts_with("vision_tower.") => rest.replacen("vision_tower.", "vision_tower.vision_model.", 1),
        Some(rest) => rest.to_owned(),
        None => format!("language_model.{canonical}"),
    }
}

/// Buffers that some files carry although they follow from the configuration.
pub fn ignorable(name: &str) -> bool {
    name.ends_with(".position_ids") || name.ends_with(".rotary_emb.inv_freq")
}
