//! Parses texts with references.

use super::invalid;
use crate::config::{
    error::ConfigError,
    node::{Node, Value},
    origin::Origin,
};

/// A part of a text.
pub(super) enum Part {
    /// Literal text.
    Text(String),
    /// `${path}`
    Value(Name),
    /// `${env:NAME}`
    Variable(Variable),
}

/// The content of a reference and its origin.
pub(super) struct Name {
    pub(super) text: String,
    pub(super) origin: Origin,
}

/// An environment variable.
pub(super) struct Variable {
    pub(super) name: Name,
    pub(super) default: Option<String>,
}

impl Part {
    pub(super) fn origin(&self) -> &Origin {
        match self {
            Self::Text(_) => &Origin::Default,
            Self::Value(name) | Self::Variable(Variable { name, .. }) => &name.origin,
        }
    }
}

/// Returns the text of a written scalar with references, or escapes of them, that were not followed yet.
pub(super) fn text(node: &Node) -> Option<&str> {
    let written = matches!(node.origin, Origin::File { .. } | Origin::Set { .. }) && !node.is_followed();
    match &node.value {
        Value::Plain(text) | Value::Str(text) if written && text.contains("${") => Some(text),
        _ => None,
    }
}

/// Splits `text`, which was written at `origin`, into its parts.
pub(super) fn parts(text: &str, origin: &Origin) -> Result<Vec<Part>, ConfigError> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut at = 0;
    while let Some(found) = text[at..].find("${") {
        let brace = at + found + 1;
        let dollars = brace - text[at..brace].trim_end_matches('$').len() - at;
        // `$$` means `$`; an odd last `$` opens a reference.
        literal.push_str(&text[at..brace - dollars]);
        literal.push_str(&text[brace - dollars..brace - dollars + dollars / 2]);
        if dollars.is_multiple_of(2) {
            literal.push('{');
            at = brace + 1;
            continue;
        }
        let start = brace - 1;
        let Some(len) = text[start..].find('}') else {
            let help = Some("write the text `${` itself as `$${`".to_owned());
            return Err(invalid(
                &written(text, start, text.len(), origin),
                "`}` is missing".to_owned(),
                help,
            ));
        };
        if !literal.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut literal)));
        }
        at = start + len + 1;
        parts.push(reference(text[start + 2..at - 1].trim(), written(text, start, at, origin))?);
    }
    literal.push_str(&text[at..]);
    // A text of only escapes is text too.
    if !literal.is_empty() || parts.is_empty() {
        parts.push(Part::Text(literal));
    }
    Ok(parts)
}

fn reference(text: &str, origin: Origin) -> Result<Part, ConfigError> {
    let name = |text: &str, origin| Name {
        text: text.to_owned(),
        origin,
    };
    let Some(variable) = text.strip_prefix("env:") else {
        return match text {
            "" => Err(invalid(&origin, "a path is missing: write `${path}`".to_owned(), None)),
            path => Ok(Part::Value(name(path, origin))),
        };
    };
    let (variable, default) = match variable.split_once(':') {
        Some((variable, default)) => (variable, Some(default.to_owned())),
        None => (variable, None),
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if variable.is_empty() || !variable.chars().all(is_name) {
        return Err(invalid(&origin, format!("`{variable}` is not the name of a variable"), None));
    }
    Ok(Part::Variable(Variable {
        name: name(variable, origin),
        default,
    }))
}

/// Returns the origin of the characters of `text` from `start` to `end`. The origin of a quoted text without escapes
/// includes the quotes.
fn written(text: &str, start: usize, end: usize, origin: &Origin) -> Origin {
    let quoted = origin
        .span()
        .and_then(|(source, span)| source.text().get(span.offset..span.offset + span.len));
    match quoted {
        Some(whole) if whole.len() == text.len() + 2 && whole.get(1..whole.len() - 1) == Some(text) => {
            origin.part(whole, start + 1, end - start)
        }
        _ => origin.part(text, start, end - start),
    }
}
