//! Fields of records and messages that carry content which is not read. Fields that are not listed, such as `id`, `source`
//! and `metadata`, are ignored.

use serde_json::{Map, Value};

/// Fields of a record.
#[rustfmt::skip]
const OF_RECORDS: &[&str] = &[
    "video", "videos", "video_path", "audio", "audios", "audio_path", "speech", "sound", "frames", "img", "imgs", "image_path",
    "image_paths", "image_file", "image_files", "image_url", "image_urls", "image_base64", "image_bytes", "picture", "pictures", "photo",
    "photos", "pixel_values", "point_cloud", "depth", "document", "documents", "pdf", "tools", "functions", "function_call", "tool_calls",
    "chosen", "rejected",
];

/// Starts of the fields that name images.
const OF_IMAGES: &[&str] = &["im", "picture", "photo", "pixel"];

/// Fields of a message.
#[rustfmt::skip]
const OF_MESSAGES: &[&str] = &[
    "video", "videos", "audio", "audios", "image", "images", "image_url", "img", "function_call", "tool_calls",
    "reasoning_content", "thinking",
];

/// Returns the fields of a record that carry content which is not read.
pub(super) fn unread(record: &Map<String, Value>) -> impl Iterator<Item = &'static str> + '_ {
    OF_RECORDS.iter().copied().filter(|name| record.get(*name).is_some_and(is_content))
}

/// Returns the reason against a field of a record that is not read.
pub(super) fn advice(field: &str) -> &'static str {
    match field {
        "chosen" | "rejected" => "is of preference data, which are not supported: write the wanted answer as a message",
        "tools" | "functions" | "function_call" | "tool_calls" => "is of calls of tools, which are not supported: remove it",
        _ if OF_IMAGES.iter().any(|start| field.starts_with(start)) => "is not read: remove it, or name images in `image`",
        _ => "is not supported: the model gets text and images only; remove it",
    }
}

/// Returns a field of a message that carries content which is not read, or takes the message out of training.
pub(super) fn unread_of_message(message: &Value) -> Option<String> {
    let named = OF_MESSAGES.iter().find(|name| message.get(**name).is_some_and(is_content));
    if let Some(name) = named {
        return Some(format!("`{name}` is not read"));
    }
    let weight = message.get("weight").and_then(Value::as_f64);
    weight
        .filter(|weight| *weight != 1.0)
        .map(|weight| format!("`weight` {weight} is not applied, every answer has the weight 1"))
}

fn is_content(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        Value::Bool(value) => *value,
        Value::Number(_) => true,
    }
}

/// Returns the name of a value's type, for messages.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
