//! SteerLM's form of a record, which NeMo reads from `.jsonl` files:
//!
//! ```json
//! {"system": "", "mask": "User", "type": "VALUE_TO_TEXT", "conversations": [
//!   {"from": "User", "value": "<img src=\"cat.jpg\"> What is it?", "label": null},
//!   {"from": "Assistant", "value": "A cat.", "label": null}]}
//! ```
//!
//! `mask` names the role whose text is not trained. `label` would be the attributes of an answer, which no template here
//! writes.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::conversation::IMAGE_TOKEN;

const TAG: &str = "<img src=";

/// Converts a record of SteerLM's form to LLaVA's; returns any other record as it is.
///
/// A record has SteerLM's form if it has `mask`, or `<img src=` in a message and neither `image` nor `images`. An image is
/// the file of this path if `exists` finds it; otherwise the file of this name in the image folder, as in NeMo.
///
/// # Errors
/// Returns field and reason of what cannot be converted.
pub(super) fn to_llava(value: Value, exists: impl Fn(&str) -> bool) -> Result<Value, (&'static str, String)> {
    let Value::Object(fields) = &value else { return Ok(value) };
    let has = |name: &str| fields.get(name).is_some_and(|value| !value.is_null());
    let has_tag = || {
        let list = fields.get("conversations").and_then(Value::as_array);
        list.into_iter()
            .flatten()
            .any(|message| text(message, "value").is_some_and(|text| text.contains(TAG)))
    };
    let has_images = has("image") || has("images");
    if !has("mask") && (has_images || !has_tag()) {
        return Ok(value);
    }
    if has_images {
        return Err((
            "mask",
            format!("belongs to SteerLM's form, where images are `{TAG}\"FILE\">` in the text: remove `image` or `mask`"),
        ));
    }
    let Some(list) = fields.get("conversations").and_then(Value::as_array) else {
        return Ok(value);
    };
    let mask = match fields.get("mask") {
        None | Some(Value::Null) => None,
        Some(Value::String(role)) => Some(role.as_str()),
        Some(_) => return Err(("mask", "must be the name of the role whose text is not trained, `User`".to_owned())),
    };
    if let Some(role) = mask.filter(|role| !list.iter().any(|message| text(message, "from") == Some(role))) {
        return Err(("mask", format!("names the role `{role}`, which no message is from")));
    }
    if let Some(role) = mask.filter(|role| {
        ["assistant", "gpt", "model", "bot"]
            .iter()
            .any(|answers| role.eq_ignore_ascii_case(answers))
    }) {
        return Err((
            "mask",
            format!("is `{role}`: the answers would not be trained, and the questions would; set it to the role that asks"),
        ));
    }
    let mut images = Vec::new();
    let mut conversations = Vec::with_capacity(list.len());
    for (number, message) in list.iter().enumerate() {
        if let Some(label) = message.get("label").filter(|label| !label.is_null()) {
            return Err((
                "conversations",
                format!("message {number} has the label {label}: attributes of answers are not supported; set it to null"),
            ));
        }
        let (Some(from), Some(value)) = (text(message, "from"), text(message, "value")) else {
            // The check of a LLaVA record reports it.
            conversations.push(message.clone());
            continue;
        };
        // The other roles are known by their names, or refused by the check of a LLaVA record.
        let role = if mask == Some(from) { "human" } else { from };
        let value = replace_tags(value, &exists, &mut images).map_err(|tag| {
            (
                "conversations",
                format!("message {number} has `{tag}`, which is not of the form `{TAG}\"FILE\">`"),
            )
        })?;
        let mut message = message.clone();
        message["from"] = json!(role);
        message["value"] = json!(value);
        conversations.push(message);
    }
    let mut converted = Map::new();
    for (name, value) in fields {
        // Without labels, `type` has no meaning. An empty system text is that of the template, as in NeMo.
        let drop = matches!(name.as_str(), "mask" | "type" | "conversations") || (name == "system" && value.as_str() == Some(""));
        if !drop {
            converted.insert(name.clone(), value.clone());
        }
    }
    if !images.is_empty() {
        converted.insert("image".to_owned(), json!(images));
    }
    converted.insert("conversations".to_owned(), Value::Array(conversations));
    Ok(Value::Object(converted))
}

fn text<'a>(message: &'a Value, field: &str) -> Option<&'a str> {
    message.get(field).and_then(Value::as_str)
}

/// Replaces each tag by the placeholder of an image, and appends its file to `images`. Returns the start of a tag of
/// another form.
fn replace_tags(text: &str, exists: &impl Fn(&str) -> bool, images: &mut Vec<String>) -> Result<String, String> {
    let mut replaced = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, tag)) = rest.split_once(TAG) {
        let other = || format!("{TAG}{}", tag.chars().take(24).collect::<String>());
        let (file, after) = tag.strip_prefix('"').and_then(|tag| tag.split_once('"')).ok_or_else(other)?;
        let after = after.trim_start();
        let after = after.strip_prefix('/').unwrap_or(after).strip_prefix('>').ok_or_else(other)?;
        let name = Path::new(file).file_name().and_then(|name| name.to_str()).ok_or_else(other)?;
        images.push(if exists(file) { file } else { name }.to_owned());
        replaced.push_str(before);
        replaced.push_str(IMAGE_TOKEN);
        rest = after;
    }
    replaced.push_str(rest);
    Ok(replaced)
}
