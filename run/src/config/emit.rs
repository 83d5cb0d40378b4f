//! Writes a tree as YAML or JSON.

use super::{
    node::{Entry, Map, Node, Value, resolve},
    scalar,
    visible::is_hidden,
};

/// Longest list of scalars that is written on one line, in characters.
const MAX_LINE: usize = 80;

/// Writes the tree as YAML. Parsing it gives the same tree: ambiguous text is quoted, floats stay floats, and plain
/// scalars keep their spelling.
pub fn to_yaml_string(node: &Node) -> String {
    let mut yaml = block(node, 0).unwrap_or_else(|| inline(node));
    if !yaml.ends_with('\n') {
        yaml.push('\n');
    }
    yaml
}

/// Converts the tree to JSON. Plain scalars are resolved as if no type were known, so `1_000` becomes a number. Integers
/// beyond 64 bits and infinite floats, which JSON numbers cannot hold, become strings. For exact values convert the typed
/// value: `to_json(&to_node(&value, origin)?)`.
pub fn to_json(node: &Node) -> serde_json::Value {
    use serde_json::Value as Json;
    match &node.value {
        Value::Null => Json::Null,
        Value::Plain(text) => to_json(&Node::new(node.origin.clone(), resolve(text))),
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

/// Returns the lines of a map or list, indented by `indent`; `None` for a value on the line of its key.
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
            // The first line of a nested block is on the line of its dash.
            Some(block) => block[indent + 2..].to_owned(),
            None => format!("{}\n", inline(item)),
        };
        lines.extend([&pad, "- ", &value]);
    }
    lines
}

fn fits_line(items: &[Node]) -> bool {
    let scalars = items.iter().all(|item| !matches!(item.value, Value::Seq(_) | Value::Map(_)));
    scalars && items.iter().map(|item| inline(item).chars().count() + 2).sum::<usize>() <= MAX_LINE
}

/// Writes the whole tree as YAML on one line: `{_target_: optim.AdamW, betas: [0.9, 0.95]}`.
pub(super) fn flow(node: &Node) -> String {
    inline(node)
}

/// Writes the value without line breaks.
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
        // Only `flow` writes a map with entries on one line.
        Value::Map(map) => {
            let entries: Vec<_> = map
                .iter()
                .map(|(name, entry)| format!("{}: {}", text(name), inline(&entry.node)))
                .collect();
            format!("{{{}}}", entries.join(", "))
        }
    }
}

/// Writes a plain scalar: without quotes unless it is text, because quotes would make it text.
fn plain(typed: &str) -> String {
    if scalar::is_none(typed) || !matches!(resolve(typed), Value::Str(_)) {
        typed.to_owned()
    } else {
        text(typed)
    }
}

/// Writes text: in quotes unless every YAML parser reads the bare characters as the same text.
fn text(value: &str) -> String {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-' | '+');
    let bare = value.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '_' | '/'))
        && value.chars().all(is_safe)
        && !scalar::is_none(value)
        && scalar::bool_like(value).is_none();
    if bare { value.to_owned() } else { quoted(value) }
}

/// Writes `"text"` with YAML's escapes.
fn quoted(value: &str) -> String {
    let mut quoted = String::with_capacity(value.len() + 2);
    quoted.push('"');
    for c in value.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            // Includes the characters that YAML does not allow unescaped.
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
