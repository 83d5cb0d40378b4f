//! Visits all values of a tree, and sets all fields of one name.

use super::{
    node::{Node, Value},
    path::{Path, Segment},
};

/// Calls `visit` with every value of `root` and its path: a value before its children, in order.
pub fn walk<'a>(root: &'a Node, mut visit: impl FnMut(&Path, &'a Node)) {
    descend(&mut Path::default(), root, &mut visit);
}

fn descend<'a>(path: &mut Path, node: &'a Node, visit: &mut impl FnMut(&Path, &'a Node)) {
    visit(path, node);
    match &node.value {
        Value::Seq(items) => {
            for (index, item) in items.iter().enumerate() {
                path.0.push(Segment::Index(index));
                descend(path, item, visit);
                path.0.pop();
            }
        }
        Value::Map(map) => {
            for (name, entry) in map {
                path.0.push(Segment::Key(name.clone()));
                descend(path, &entry.node, visit);
                path.0.pop();
            }
        }
        _ => {}
    }
}

/// Sets every field called `name` to `value`, at any depth, in lists and maps too. Returns the number of fields. Replaced
/// values are not searched.
pub fn broadcast(root: &mut Node, name: &str, value: &Node) -> usize {
    match &mut root.value {
        Value::Seq(items) => items.iter_mut().map(|item| broadcast(item, name, value)).sum(),
        Value::Map(map) => {
            let fields = map.iter_mut().map(|(key, entry)| {
                if key == name {
                    entry.node.replace(value.clone());
                    1
                } else {
                    broadcast(&mut entry.node, name, value)
                }
            });
            fields.sum()
        }
        _ => 0,
    }
}
