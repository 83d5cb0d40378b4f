//! Parses an override into path, operator and value.

use std::sync::Arc;

use super::{Action, Override, number::Arithmetic};
use crate::config::{
    call,
    error::{ConfigError, ProblemKind},
    node::{Node, Value},
    origin::{Origin, Source, Span},
    path::{self, Path, Step},
    yaml,
};

pub(super) fn parse(source: &Arc<Source>) -> Result<Override, ConfigError> {
    let text = source.text();
    let start = text.len() - text.trim_start().len();
    let equals = equals(text);
    if text[start..].starts_with('~') {
        if let Some(at) = equals {
            return Err(error(
                source,
                Span::new(at, text.len() - at),
                "a deletion takes no value: write `~path`",
            ));
        }
        let steps = steps(source, start + 1, text.len())?;
        return Ok(Override {
            source: Arc::clone(source),
            steps,
            action: Action::Delete,
        });
    }
    let Some(at) = equals else {
        // An open quote hides the `=`: then parsing the path reports the error.
        steps(source, start, text.len())?;
        let span = Span::new(start, text.trim().len());
        return Err(error(source, span, "`=` is missing: write `path=value`, or `~path` to delete"));
    };
    let operator = text[..at].chars().next_back().filter(|c| "+-*/|".contains(*c));
    let end = at - operator.map_or(0, char::len_utf8);
    let list = text[start..end].trim_end().strip_suffix("[+]");
    if let (Some(list), Some(operator)) = (list, operator) {
        let span = Span::new(start + list.len(), at + 1 - start - list.len());
        let reason = format!("`[+]` appends already: write `[+]=` instead of `[+]{operator}=`");
        return Err(error(source, span, &reason));
    }
    let steps = steps(source, start, list.map_or(end, |list| start + list.len()))?;
    let value = value(source, at + 1)?;
    if list.is_some() {
        return Ok(Override {
            source: Arc::clone(source),
            steps,
            action: Action::Append(value),
        });
    }
    let action = match operator {
        Some('+') => Action::Add(value),
        Some('-') => Action::Compute(Arithmetic::Subtract, value),
        Some('*') => Action::Compute(Arithmetic::Multiply, value),
        Some('/') => Action::Compute(Arithmetic::Divide, value),
        Some('|') => Action::Merge(value),
        _ => Action::Set(value),
    };
    Ok(Override {
        source: Arc::clone(source),
        steps,
        action,
    })
}

/// Finds the first `=` outside quotes.
fn equals(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    text.char_indices().find_map(|(at, c)| {
        match (quote, c) {
            _ if escaped => escaped = false,
            (Some('"'), '\\') => escaped = true,
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, '=') => return Some(at),
            _ => {}
        }
        None
    })
}

/// Parses the path in the bytes from `start` to `end`, without surrounding white space.
fn steps(source: &Arc<Source>, start: usize, end: usize) -> Result<Vec<Step>, ConfigError> {
    let text = source.text().get(start..end).unwrap_or_default();
    let start = start + text.len() - text.trim_start().len();
    let mut steps = path::steps(text.trim()).map_err(|e| error(source, e.span.shifted(start), &e.reason))?;
    if steps.is_empty() {
        return Err(error(source, Span::new(start, 0), "the path is missing: write `path=value`"));
    }
    for step in &mut steps {
        step.span = step.span.shifted(start);
    }
    Ok(steps)
}

/// Parses the value in the bytes from `start` on.
fn value(source: &Arc<Source>, start: usize) -> Result<Node, ConfigError> {
    let text = &source.text()[start..];
    let trimmed = text.trim();
    // YAML would read both of these as null, but the user means text.
    if trimmed.is_empty() || trimmed.starts_with('#') {
        let span = Span::new(start + text.len() - text.trim_start().len(), trimmed.len());
        let origin = Origin::Set {
            source: Arc::clone(source),
            span,
        };
        return Ok(Node::new(origin, Value::Str(trimmed.to_owned())));
    }
    let span = Span::new(start + text.len() - text.trim_start().len(), trimmed.len());
    let origin = Origin::Set {
        source: Arc::clone(source),
        span,
    };
    // YAML reserves `@`, and splits a call at its commas.
    if trimmed.starts_with('@') {
        return Ok(Node::new(origin, Value::Plain(trimmed.to_owned())));
    }
    if call::occurs_in(trimmed) {
        return call::value(trimmed, &origin);
    }
    yaml::parse_override(source, start)
}

fn error(source: &Arc<Source>, span: Span, reason: &str) -> ConfigError {
    let origin = Origin::Set {
        source: Arc::clone(source),
        span,
    };
    ConfigError::new(
        Path::default(),
        Some(origin),
        ProblemKind::Syntax {
            reason: reason.to_owned(),
            help: None,
        },
    )
}
