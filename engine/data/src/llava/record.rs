//! Validation of one record of a LLaVA JSON file.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::template::{Conversation, IMAGE_TOKEN, Template, Turn, render};

/// A valid record.
#[derive(Debug)]
pub(super) struct Record {
    /// Name of the sample, for messages.
    pub(super) name: String,
    pub(super) images: Vec<PathBuf>,
    pub(super) conversation: Conversation,
}

/// Callback for a problem: takes the record's id, the invalid field and the reason.
pub(super) type Report<'a> = &'a mut dyn FnMut(Option<&str>, Option<&'static str>, String);

impl Record {
    /// Validates the record in `value`. Reports every problem, and returns `None` if there is any. Image files must exist if
    /// `finds_files`.
    pub(super) fn check(
        value: &Value,
        folder: &Path,
        template: &Template,
        reads_images: bool,
        finds_files: bool,
        report: Report<'_>,
    ) -> Option<Self> {
        let Value::Object(fields) = value else {
            report(None, None, format!("must be an object, found {}", type_name(value)));
            return None;
        };
        let id = match fields.get("id") {
            None | Some(Value::Null) => None,
            Some(Value::String(id)) => Some(id.clone()),
            Some(other) => Some(other.to_string()),
        };
        let mut valid = true;
        let mut report = |field: &'static str, reason: String| {
            valid = false;
            report(id.as_deref(), Some(field), reason);
        };
        let names = images(fields, &mut report);
        let conversation = conversation(fields, &mut report);

        if let (Some(names), Some(conversation)) = (&names, &conversation) {
            let count = |text: &str| text.matches(IMAGE_TOKEN).count();
            let placeholders: usize = conversation
                .turns
                .iter()
                .map(|turn| count(&turn.question) + turn.answer.as_deref().map_or(0, count))
                .sum();
            if placeholders != names.len() {
                let reason = format!("{} image(s), but the text has `{IMAGE_TOKEN}` {placeholders} time(s)", names.len());
                report("image", reason);
            }
        }
        if !reads_images && names.as_ref().is_some_and(|names| !names.is_empty()) {
            report(
                "image",
                "the model has no vision encoder: remove the image or train vlm.LlavaModel".to_owned(),
            );
        }
        let images: Vec<PathBuf> = names.iter().flatten().map(|name| folder.join(name)).collect();
        for path in images.iter().filter(|path| finds_files && !path.is_file()) {
            report("image", format!("there is no file {}", path.display()));
        }
        let conversation = conversation?;
        if let Err(error) = render(template, &conversation) {
            report("conversations", error.to_string());
        }
        let name = id.map(|id| format!(" (id {id})")).unwrap_or_default();
        valid.then_some(Self {
            name,
            images,
            conversation,
        })
    }
}

/// Returns the file names in `image`: none, one, or a list.
fn images(fields: &Map<String, Value>, report: &mut dyn FnMut(&'static str, String)) -> Option<Vec<String>> {
    let name = |value: &Value| value.as_str().filter(|name| !name.is_empty()).map(str::to_owned);
    let names = match fields.get("image") {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(Value::Array(list)) => list.iter().map(name).collect(),
        Some(value) => name(value).map(|name| vec![name]),
    };
    if names.is_none() {
        report("image", "must be a file name or a list of file names".to_owned());
    }
    names
}

/// Returns the turns in `conversations`. The first two messages define the names of the two roles.
fn conversation(fields: &Map<String, Value>, report: &mut dyn FnMut(&'static str, String)) -> Option<Conversation> {
    let mut reject = |reason: String| {
        report("conversations", reason);
        None
    };
    let list = match fields.get("conversations") {
        None => return reject("is missing".to_owned()),
        Some(Value::Array(list)) => list,
        Some(other) => return reject(format!("must be a list of messages, found {}", type_name(other))),
    };
    if list.is_empty() {
        return reject("is empty".to_owned());
    }
    let mut messages = Vec::with_capacity(list.len());
    for (i, message) in list.iter().enumerate() {
        let text = |key| message.get(key).and_then(Value::as_str);
        let (Some(from), Some(value)) = (text("from"), text("value")) else {
            return reject(format!("message {i} must be {{\"from\": string, \"value\": string}}"));
        };
        messages.push((from, value));
    }
    if matches!(messages[0].0, "gpt" | "assistant") {
        return reject(format!(
            "starts with an answer (from \"{}\"): a question must come first",
            messages[0].0
        ));
    }
    let roles: Vec<&str> = messages.iter().take(2).map(|message| message.0).collect();
    for (i, (from, _)) in messages.iter().enumerate() {
        let expected = roles[i % roles.len()];
        if *from != expected || (i == 1 && roles[0] == roles[1]) {
            return reject(format!("message {i} is from \"{from}\", but the roles must alternate"));
        }
    }
    if messages.len() % 2 != 0 {
        return reject(format!("has {} message(s), the last of which has no answer", messages.len()));
    }
    let turn = |pair: &[(&str, &str)]| Turn {
        question: pair[0].1.to_owned(),
        answer: Some(pair[1].1.to_owned()),
    };
    Some(Conversation {
        system: None,
        turns: messages.chunks_exact(2).map(turn).collect(),
    })
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
