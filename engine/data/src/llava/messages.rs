//! Messages of a record, in the forms of LLaVA and ShareGPT (`conversations`) and of OpenAI (`messages`).

use serde_json::{Map, Value};

use super::{
    fields::{self, type_name},
    roles::Role,
};
use crate::conversation::{Conversation, IMAGE_TOKEN};

/// A message.
#[derive(Debug)]
pub(super) struct Message {
    /// Position in the record, for messages about it.
    pub(super) index: usize,
    pub(super) role: Role,
    /// The name of the role, as written.
    pub(super) from: String,
    /// The text, with an [`IMAGE_TOKEN`] for each image.
    pub(super) text: String,
}

/// The messages of a record.
#[derive(Debug, Default)]
pub(super) struct Messages {
    pub(super) list: Vec<Message>,
    /// Images that parts of messages name.
    pub(super) images: Vec<String>,
    /// Number of image parts, of which some may name no image.
    pub(super) image_parts: usize,
}

/// Returns the name of the field that holds the messages, with its value.
pub(super) fn field(record: &Map<String, Value>) -> Result<(&'static str, &Value), (&'static str, String)> {
    let found = ["conversations", "messages", "conversation"].into_iter().filter_map(|name| {
        let value = record.get(name).filter(|value| !value.is_null())?;
        Some((name, value))
    });
    let found: Vec<_> = found.collect();
    match found.as_slice() {
        [one] => Ok(*one),
        [] => {
            let reason = match record.keys().map(String::as_str).collect::<Vec<_>>().as_slice() {
                [] => "is missing".to_owned(),
                names => format!("is missing: the record has {}", names.join(", ")),
            };
            Err(("conversations", reason))
        }
        [(first, _), (second, _), ..] => Err((second, format!("the record has `{first}`, too: keep one of them"))),
    }
}

impl Messages {
    /// Reads a list of messages, each `{"from", "value"}` or `{"role", "content"}`.
    pub(super) fn read(value: &Value) -> Result<Self, String> {
        let Value::Array(list) = value else {
            return Err(format!("must be a list of messages, found {}", type_name(value)));
        };
        let mut messages = Self::default();
        for (index, message) in list.iter().enumerate() {
            messages
                .push(index, message)
                .map_err(|reason| format!("message {index} {reason}"))?;
        }
        Ok(messages)
    }

    fn push(&mut self, index: usize, message: &Value) -> Result<(), String> {
        let get = |names: [&str; 2]| {
            names
                .into_iter()
                .find_map(|name| message.get(name).filter(|value| !value.is_null()))
        };
        let shape = "must be {\"from\": string, \"value\": string} or {\"role\": string, \"content\": string or list of parts}";
        let Some(Value::String(from)) = get(["from", "role"]) else {
            return Err(shape.to_owned());
        };
        let Some(role) = Role::named(from) else {
            return Err(format!(
                "is from {from:?}: name its speaker human or gpt, user or assistant, or system"
            ));
        };
        if role == Role::Tool {
            return Err(format!(
                "is from {from:?}: calls of tools are not supported, remove them from the record"
            ));
        }
        if let Some(reason) = fields::unread_of_message(message) {
            return Err(format!("cannot be used: {reason}"));
        }
        let text = match get(["value", "content"]) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(parts)) => self.parts(parts)?,
            _ => return Err(shape.to_owned()),
        };
        self.list.push(Message {
            index,
            role,
            from: from.clone(),
            text,
        });
        Ok(())
    }

    /// Returns the text of a list of parts, one per line. `<image>` within a text part is text.
    fn parts(&mut self, parts: &[Value]) -> Result<String, String> {
        let mut texts = Vec::with_capacity(parts.len());
        for (number, part) in parts.iter().enumerate() {
            let text = match part {
                Value::String(text) => Ok(Conversation::literal(text).into_owned()),
                part => self.part(part),
            };
            texts.push(text.map_err(|reason| format!("part {number}: {reason}"))?);
        }
        Ok(texts.join("\n"))
    }

    fn part(&mut self, part: &Value) -> Result<String, String> {
        let kind = part.get("type").and_then(Value::as_str);
        let text = || part.get("text").and_then(Value::as_str);
        match kind {
            Some("text" | "input_text" | "output_text") => match text() {
                Some(text) => Ok(Conversation::literal(text).into_owned()),
                None => Err("a part of type text must have a string in `text`".to_owned()),
            },
            Some("image" | "image_url" | "input_image") => {
                self.image_parts += 1;
                if let Some(address) = address(part)? {
                    self.images.push(path(address)?);
                }
                Ok(IMAGE_TOKEN.to_owned())
            }
            Some(other) => Err(format!("parts of type {other:?} are not supported: text, image and image_url are")),
            None => match text() {
                Some(text) => Ok(Conversation::literal(text).into_owned()),
                None => Err("must be {\"type\": \"text\", \"text\": string} or {\"type\": \"image\", \"image\": file}".to_owned()),
            },
        }
    }
}

/// Returns the address in an image part. `None`: the image is the next one of the record's `images`.
fn address(part: &Value) -> Result<Option<&str>, String> {
    let found = ["image_url", "image", "url", "path"]
        .into_iter()
        .find_map(|name| part.get(name).filter(|value| !value.is_null()));
    match found {
        None => Ok(None),
        Some(Value::String(address)) => Ok(Some(address)),
        Some(value) => match value.get("url").or_else(|| value.get("path")) {
            Some(Value::String(address)) => Ok(Some(address)),
            _ => Err("an image must be a file name, or an object with a `url`".to_owned()),
        },
    }
}

/// Returns the file that an address names.
fn path(address: &str) -> Result<String, String> {
    let address = address.strip_prefix("file://").unwrap_or(address);
    if address.is_empty() {
        return Err("the name of an image is empty".to_owned());
    }
    if let Some(scheme) = ["http://", "https://", "data:", "s3://", "gs://"]
        .into_iter()
        .find(|scheme| address.starts_with(scheme))
    {
        return Err(format!(
            "an image at `{scheme}...` is not read: save it to a file and name the file"
        ));
    }
    Ok(address.into())
}
