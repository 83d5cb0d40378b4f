//! Text that only looks like a reference.

use crate::config::{
    include,
    node::{Node, Value},
};

/// `node` as a file has to have it to be read back as it is: a `${` that is no reference is written `$${`, with two
/// for each `$`, and the `@` of a text that would name a file `@@`.
pub fn escape(node: &mut Node) {
    match &mut node.value {
        Value::Seq(items) => items.iter_mut().for_each(escape),
        Value::Map(map) => map.values_mut().for_each(|entry| escape(&mut entry.node)),
        Value::Str(text) | Value::Plain(text) => {
            *text = doubled(text);
            if let Some(escaped) = include::escaped(text) {
                *text = escaped;
            }
        }
        _ => {}
    }
}

/// `text` with two for each `$` in front of `{`.
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
