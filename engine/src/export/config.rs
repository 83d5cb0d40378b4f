//! `config.json` of a whole model.

use super::tokenizer_files::TokenIds;
use neva_layout::ModelTable;
use serde_json::Value;

/// Returns the base's config, or that of the table, with the ids of special tokens where they are missing.
pub(super) fn config(base: Option<Value>, table: &ModelTable, ids: Option<&TokenIds>) -> Value {
    let of_table = base.is_none();
    let mut config = base.unwrap_or_else(|| table.write_config());
    if !of_table {
        add_rope_of_4(&mut config, &table.write_config());
    }
    let Some(ids) = ids else { return config };
    let special = [
        ("bos_token_id", ids.bos),
        ("eos_token_id", ids.eos),
        ("pad_token_id", ids.pad.or(ids.eos)),
    ];
    let fill = |object: &mut Value| {
        for (name, id) in special {
            if let Some(id) = id
                && object.get(name).is_none_or(Value::is_null)
            {
                object[name] = id.into();
            }
        }
    };
    if of_table {
        match config.get_mut("text_config") {
            Some(text) => fill(text),
            None => fill(&mut config),
        }
    }
    if let Some(image) = ids.image.filter(|_| config.get("text_config").is_some()) {
        let name = ["image_token_id", "image_token_index"]
            .into_iter()
            .find(|name| config.get(name).is_some());
        // The run marks images by their places, so that the token may have any free id.
        config[name.unwrap_or("image_token_index")] = image.into();
    }
    config
}

/// Adds the rotary settings in the spelling of transformers 4, which ignores `rope_parameters` of 5 and would compute with its
/// defaults. 5 reads both.
fn add_rope_of_4(config: &mut Value, written: &Value) {
    let written = written.get("text_config").unwrap_or(written);
    let text = match config.get("text_config") {
        Some(_) => &mut config["text_config"],
        None => config,
    };
    if text.get("rope_parameters").is_none_or(Value::is_null) {
        return;
    }
    for name in ["rope_theta", "rope_scaling", "partial_rotary_factor"] {
        if let Some(value) = written.get(name).filter(|_| text.get(name).is_none_or(Value::is_null)) {
            text[name] = value.clone();
        }
    }
}
