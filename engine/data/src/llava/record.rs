//! Validation of one record of a LLaVA JSON file.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{
    counts::RecordCounts,
    dialogue::Dialogue,
    fields::{self, type_name},
    messages::{self, Messages},
};
use crate::{conversation::Conversation, image::ImageSource, template::ChatTemplate};

/// A valid record.
#[derive(Debug)]
pub(crate) struct Record {
    /// Name of the sample, for messages.
    pub(crate) name: String,
    /// Names of the images in `source`.
    pub(crate) images: Vec<String>,
    pub(crate) source: Arc<ImageSource>,
    pub(crate) conversation: Conversation,
    /// 1 for each change with which the record is taken.
    pub(crate) counts: RecordCounts,
}

/// Callback for a problem: takes the record's id, the invalid field and the reason.
pub(crate) type Report<'a> = &'a mut dyn FnMut(Option<&str>, Option<&'static str>, String);

impl Record {
    /// Validates the record in `value`. Reports every problem, and returns `None` if there is any. Image files must exist if
    /// `finds_files`.
    pub(super) fn check(
        value: &Value,
        source: &Arc<ImageSource>,
        template: &ChatTemplate,
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
        for field in fields::unread(fields) {
            report(field, fields::advice(field).to_owned());
        }
        let images = images(fields, &mut report);
        let messages = messages::field(fields).and_then(|(field, value)| {
            let messages = Messages::read(value).map_err(|reason| (field, reason))?;
            Ok((field, messages))
        });
        let (field, messages) = match messages {
            Ok((field, messages)) => (field, Some(messages)),
            Err((field, reason)) => {
                report(field, reason);
                (field, None)
            }
        };
        let mut counts = RecordCounts::default();
        let (mut names, mut dialogue) = (images.unwrap_or_default(), None);
        if let Some(mut messages) = messages {
            let (of_fields, of_parts) = (names.len(), messages.images.len());
            match (of_fields, of_parts) {
                (0, _) => names.append(&mut messages.images),
                (_, 0) => {}
                _ => report(
                    "image",
                    format!("{of_fields} image(s) here, and {of_parts} in parts of messages: keep one of them"),
                ),
            }
            if names.is_empty() && messages.image_parts > 0 {
                report(
                    "image",
                    format!("0 image(s), but the parts of messages have {}", messages.image_parts),
                );
            }
            dialogue = Dialogue::new(messages.list, &mut counts)
                .map_err(|reason| report(field, reason))
                .ok();
        }
        let system = system(fields, &mut report);
        let conversation = dialogue.and_then(|mut dialogue| {
            dialogue
                .place_images(&mut names, &mut counts)
                .map_err(|reason| report("image", reason))
                .ok()?;
            dialogue.with_system(system).map_err(|reason| report("system", reason)).ok()
        });

        if !reads_images && !names.is_empty() {
            report(
                "image",
                "the model has no vision encoder: remove the image or train vlm.LlavaModel".to_owned(),
            );
        }
        for name in names.iter().filter(|name| finds_files && !source.contains(name)) {
            let reason = match name.contains("://") {
                true => format!("`{name}` is an address: download the image and name its file"),
                false => format!("there is no file {}", source.describe(name)),
            };
            report("image", reason);
        }
        let conversation = conversation?;
        if let Err(error) = template.render(&conversation) {
            report(field, error.to_string());
        }
        let name = id.map(|id| format!(" (id {id})")).unwrap_or_default();
        valid.then_some(Self {
            name,
            images: names,
            source: Arc::clone(source),
            conversation,
            counts,
        })
    }
}

/// Returns the file names in `image` or `images`: none, one, or a list.
fn images(fields: &Map<String, Value>, report: &mut dyn FnMut(&'static str, String)) -> Option<Vec<String>> {
    let name = |value: &Value| {
        let name = value.as_str().or_else(|| value.get("path").or_else(|| value.get("url"))?.as_str());
        name.filter(|name| !name.is_empty()).map(str::to_owned)
    };
    let mut found: Option<(&'static str, Vec<String>)> = None;
    for field in ["image", "images"] {
        let names = match fields.get(field) {
            None | Some(Value::Null) => continue,
            Some(Value::Array(list)) => list.iter().map(name).collect(),
            Some(value) => name(value).map(|name| vec![name]),
        };
        let Some(names) = names else {
            report(field, "must be a file name or a list of file names".to_owned());
            return None;
        };
        match &found {
            Some((other, known)) if !known.is_empty() && !names.is_empty() && *known != names => {
                report(field, format!("differs from `{other}`: keep one of them"));
                return None;
            }
            Some(_) if names.is_empty() => {}
            _ => found = Some((field, names)),
        }
    }
    Some(found.map(|(_, names)| names).unwrap_or_default())
}

/// Returns the text of `system` or `system_prompt`.
fn system(fields: &Map<String, Value>, report: &mut dyn FnMut(&'static str, String)) -> Option<String> {
    for field in ["system", "system_prompt"] {
        match fields.get(field) {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) => return Some(text.clone()).filter(|text| !text.is_empty()),
            Some(other) => report(field, format!("must be a string, found {}", type_name(other))),
        }
    }
    None
}
