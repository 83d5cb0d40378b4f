//! Writes a tree as YAML or JSON.

use super::{
    node::{Entry, Map, Node, Value},
    scalar,
    visible::is_hidden,
};

/// Longest list of scalars that is written on one line, in characters.
const LINE: usize = 80;

/// The tree as YAML. Read back, it gives the same tree: text that would read as something else is
/// quoted, floats stay floats, and what was typed stays as it was typed.
pub fn to_yaml_string(node: &Node) -> String {
    let mut yaml = block(node, 0).unwrap_or_else(|| inline(node));
    if !yaml.ends_with('\n') {
        yaml.push('\n');
    }
    yaml
}

/// The tree as JSON. Scalars as typed become what they mean where no type asks, so `1_000` is a
/// number here; integers beyond 64 bits and infinite floats, which JSON has no number for, are
/// strings. For exact values write the typed value: `to_json(&to_node(&value, origin)?)`.
pub fn to_json(node: &Node) -> serde_json::Value {
    use serde_json::Value as Json;
    match &node.value {
        Value::Null => Json::Null,
        Value::Plain(text) => to_json(&Node::new(node.origin.clone(), scalar::resolve(text))),
        Value::Str(text) => Json::String(text.clone()),
        Value::Bool(value) => Json::Bool(*value),
        Value::Int(value) => match (u64::try_from(*value), i64::try_from(*value)) {
            (Ok(value), _) => value.into(),
            (_, Ok(value)) => value.into(),
            _ => Json::String(value.to_string()),
        },
        Value::Float(value) => match serde_json::Number::from_f64(*value) {
            Some(number) => Json::Number(number),
            None => Json::String(scalar::float_text(*value)),
        },
        Value::Seq(items) => Json::Array(items.iter().map(to_json).collect()),
        Value::Map(map) => Json::Object(map.iter().map(|(name, entry)| (name.clone(), to_json(&entry.node))).collect()),
    }
}

/// The lines of a map or list, each indented by `indent`; `None` for what is written on the line of
/// its key.
fn block(node: &Node, indent: usize) -> Option<String> {
    match &node.value {
        Value::Map(map) if !map.is_empty() => Some(map_lines(map, indent)),
        Value::Seq(items) if !fits_line(items) => Some(item_lines(items, indent)),
        _ => None,
    }
}

fn map_lines(map: &Map, indent: usize) -> String {
    let pad = " ".repeat(indent);
    let mut lines = String::new();
    for (name, Entry { node, .. }) in map {
        let value = match block(node, indent + 2) {
            Some(block) => format!("\n{block}"),
            None => format!(" {}\n", inline(node)),
        };
        lines.extend([&pad, text(name).as_str(), ":", &value]);
    }
    lines
}

fn item_lines(items: &[Node], indent: usize) -> String {
    let pad = " ".repeat(indent);
    let mut lines = String::new();
    for item in items {
        let value = match block(item, indent + 2) {
            // The first line of a nested block stands on the line of its dash.
            Some(block) => block[indent + 2..].to_owned(),
            None => format!("{}\n", inline(item)),
        };
        lines.extend([&pad, "- ", &value]);
    }
    lines
}

fn fits_line(items: &[Node]) -> bool {
    let scalars = items.iter().all(|item| !matches!(item.value, Value::Seq(_) | Value::Map(_)));
    scalars && items.iter().map(|item| inline(item).chars().count() + 2).sum::<usize>() <= LINE
}

/// The whole tree as YAML on one line: `{_target_: optim.AdamW, betas: [0.9, 0.95]}`.
pub(super) fn flow(node: &Node) -> String {
    inline(node)
}

/// The value without a line break.
fn inline(node: &Node) -> String {
    match &node.value {
        Value::Null => "null".to_owned(),
        Value::Plain(typed) => plain(typed),
        Value::Str(value) => text(value),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Float(value) => scalar::float_text(*value),
        Value::Seq(items) => {
            let items: Vec<_> = items.iter().map(inline).collect();
            format!("[{}]", items.join(", "))
        }
        // Where a map with entries stands on one line, the whole tree does.
        Value::Map(map) => {
            let entries: Vec<_> = map
                .iter()
                .map(|(name, entry)| format!("{}: {}", text(name), inline(&entry.node)))
                .collect();
            format!("{{{}}}", entries.join(", "))
        }
    }
}

/// A scalar as typed: bare where that matters, as the meaning of quoted text is not open.
fn plain(typed: &str) -> String {
    if scalar::is_none(typed) || !matches!(scalar::resolve(typed), Value::Str(_)) {
        typed.to_owned()
    } else {
        text(typed)
    }
}

/// Text, in quotes unless every YAML reader takes it for the same text without.
fn text(value: &str) -> String {
    let tame = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-' | '+');
    let bare = value.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '_' | '/'))
        && value.chars().all(tame)
        && !scalar::is_none(value)
        && scalar::bool_habit(value).is_none();
    if bare { value.to_owned() } else { quoted(value) }
}

/// `"text"` with YAML's escapes.
fn quoted(value: &str) -> String {
    let mut quoted = String::with_capacity(value.len() + 2);
    quoted.push('"');
    for c in value.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            // And what YAML does not print.
            c if is_hidden(c) || matches!(c, '\u{fffe}' | '\u{ffff}') => {
                quoted.extend(['\\', 'u']);
                quoted.extend(format!("{:04x}", c as u32).chars());
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
