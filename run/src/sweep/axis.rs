//! Parses a `--sweep` text: the values of one path.

use crate::config::{self, ConfigError, Origin, Path, PathError, Source, Span};

use super::invalid;

/// The values of one path.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    pub(super) path: Path,
    /// Where the path was written.
    pub(super) origin: Origin,
    /// Each as YAML, with its origin.
    pub(super) values: Vec<(String, Origin)>,
}

pub(super) fn parse_axis(text: &str) -> Result<Axis, ConfigError> {
    let source = Source::new("--sweep", text);
    let at = |offset: usize, len: usize| Origin::File {
        source: source.clone(),
        span: Span { offset, len },
    };
    let Some((before, start)) = split_path(text) else {
        return Err(invalid(
            "`=` is missing between the path and the values",
            Some("write `finetune.optim.lr=1e-4,2e-5`"),
            &at(0, text.len()),
        ));
    };
    let lead = before.len() - before.trim_start().len();
    let written = before.trim();
    if written.starts_with('~') || written.ends_with(['+', '-', '*', '/', '|']) || written.ends_with("[+]") {
        return Err(invalid("a sweep only sets values", Some("write `path=value,value`"), &at(0, start)));
    }
    let path: Path = written
        .parse()
        .map_err(|error: PathError| invalid(&error.reason, None, &at(lead + error.span.offset, error.span.len)))?;
    if path.0.is_empty() {
        return Err(invalid("the path is missing", Some("write `path=value,value`"), &at(0, start)));
    }
    let mut values = Vec::new();
    for (offset, value) in split(&text[start..]) {
        if value.trim().is_empty() {
            return Err(invalid(
                "a value is missing here",
                Some("write an empty text as `\"\"`"),
                &at(start + offset, value.len()),
            ));
        }
        // Invalid YAML is reported here once, not for each task.
        config::parse(&Source::new("--sweep", value)).map_err(|error| ConfigError {
            origin: Some(at(start + offset, value.len())),
            ..error
        })?;
        values.push((value.trim().to_owned(), at(start + offset, value.len())));
    }
    let origin = at(lead, written.len());
    Ok(Axis { path, origin, values })
}

/// Splits `path=values` at the first `=` outside quotes: returns the path, and the offset of the values.
pub(super) fn split_path(text: &str) -> Option<(&str, usize)> {
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (None, '=') => return Some((&text[..at], at + 1)),
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            _ => {}
        }
    }
    None
}

/// Splits at commas outside brackets and quotes; returns each item with its offset.
fn split(text: &str) -> Vec<(usize, &str)> {
    let (mut items, mut start, mut depth, mut quote, mut escaped) = (Vec::new(), 0, 0usize, None, false);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            _ if escaped => escaped = false,
            (Some('"'), '\\') => escaped = true,
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '[' | '{' | '(') => depth += 1,
            (None, ']' | '}' | ')') => depth = depth.saturating_sub(1),
            (None, ',') if depth == 0 => {
                items.push((start, &text[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    items.push((start, &text[start..]));
    items
}
