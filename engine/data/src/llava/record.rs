//! One record of a LLaVA-JSON file, checked.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::template::{Conversation, IMAGE_MARK, Template, Turn, render};

/// A record without problems.
#[derive(Debug)]
pub(super) struct Record {
    /// For messages.
    pub(super) name: String,
    pub(super) images: Vec<PathBuf>,
    pub(super) conversation: Conversation,
}

/// Takes a record's id, the field that is wrong, and what is wrong with it.
pub(super) type Report<'a> = &'a mut dyn FnMut(Option<&str>, Option<&'static str>, String);

impl Record {
    /// The record in `value`, or `None` after a report of all that is wrong with it.
    pub(super) fn check(value: &Value, folder: &Path, template: &Template, report: Report<'_>) -> Option<Self> {
        let Value::Object(fields) = value else {
            report(None, None, format!("must be an object, found {}", kind(value)));
            return None;
        };
        let id = match fields.get("id") {
            None | Some(Value::Null) => None,
            Some(Value::String(id)) => Some(id.clone()),
            Some(other) => Some(other.to_string()),
        };
        let mut clean = true;
        let mut report = |field: &'static str, reason: String| {
            clean = false;
            report(id.as_deref(), Some(field), reason);
        };
        let names = images(fields, &mut report);
        let conversation = conversation(fields, &mut report);

        if let (Some(names), Some(conversation)) = (&names, &conversation) {
            let count = |text: &str| text.matches(IMAGE_MARK).count();
            let marks: usize = conversation
                .turns
                .iter()
                .map(|turn| count(&turn.question) + turn.answer.as_deref().map_or(0, count))
                .sum();
            if marks != names.len() {
                let reason = format!("{} picture(s), but the text has `{IMAGE_MARK}` {marks} time(s)", names.len());
                report("image", reason);
            }
        }
        let images: Vec<PathBuf> = names.iter().flatten().map(|name| folder.join(name)).collect();
        for path in images.iter().filter(|path| !path.is_file()) {
            report("image", format!("there is no file {}", path.display()));
        }
        let conversation = conversation?;
        if let Err(error) = render(template, &conversation) {
            report("conversations", error.to_string());
        }
        let name = id.map(|id| format!(" (id {id})")).unwrap_or_default();
        clean.then_some(Self {
            name,
            images,
            conversation,
        })
    }
}

/// The names in `image`: none, one, or a list.
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

/// The turns in `conversations`. The first two messages name the roles, whatever they are called.
fn conversation(fields: &Map<String, Value>, report: &mut dyn FnMut(&'static str, String)) -> Option<Conversation> {
    let mut refuse = |reason: String| {
        report("conversations", reason);
        None
    };
    let list = match fields.get("conversations") {
        None => return refuse("is missing".to_owned()),
        Some(Value::Array(list)) => list,
        Some(other) => return refuse(format!("must be a list of messages, found {}", kind(other))),
    };
    if list.is_empty() {
        return refuse("is empty".to_owned());
    }
    let mut messages = Vec::with_capacity(list.len());
    for (i, message) in list.iter().enumerate() {
        let text = |key| message.get(key).and_then(Value::as_str);
        let (Some(from), Some(value)) = (text("from"), text("value")) else {
            return refuse(format!("message {i} must be {{\"from\": text, \"value\": text}}"));
        };
        messages.push((from, value));
    }
    if matches!(messages[0].0, "gpt" | "assistant") {
        return refuse(format!(
            "starts with an answer (from \"{}\"): a question must come first",
            messages[0].0
        ));
    }
    let roles: Vec<&str> = messages.iter().take(2).map(|message| message.0).collect();
    for (i, (from, _)) in messages.iter().enumerate() {
        let expected = roles[i % roles.len()];
        if *from != expected || (i == 1 && roles[0] == roles[1]) {
            return refuse(format!("message {i} is from \"{from}\" although the roles must alternate"));
        }
    }
    if messages.len() % 2 != 0 {
        return refuse(format!("has {} message(s), the last of which has no answer", messages.len()));
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

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
