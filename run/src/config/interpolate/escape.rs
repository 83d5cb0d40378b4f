//! Escapes text that only looks like a reference.

use crate::config::{
    file_reference,
    node::{Node, Value},
};

/// Escapes the texts in `node` so that a file with it reads back the same: each `$` before `{` is doubled, and a text that
/// would include a file gets a further `@`.
pub fn escape(node: &mut Node) {
    match &mut node.value {
        Value::Seq(items) => items.iter_mut().for_each(escape),
        Value::Map(map) => map.values_mut().for_each(|entry| escape(&mut entry.node)),
        Value::Str(text) | Value::Plain(text) => {
            *text = doubled(text);
            if let Some(escaped) = file_reference::escaped(text) {
                *text = escaped;
            }
        }
        _ => {}
    }
}

/// Doubles each `$` before `{`.
fn doubled(text: &str) -> String {
    let mut doubled = String::new();
    let mut rest = text;
    while let Some(found) = rest.find("${") {
        let (before, after) = rest.split_at(found + 1);
        doubled.push_str(before);
        doubled.push_str(&before[before.trim_end_matches('$').len()..]);
        rest = after;
    }
    doubled + rest
}
