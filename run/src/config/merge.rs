//! Merges one tree over another.

use super::{
    error::{ConfigError, ProblemKind},
    names,
    node::{CONFIG, Entry, FACTORY, Map, Node, TARGET, Value},
    path::{Path, Segment},
};

/// Prefix of a key to delete: `~peft:` over a map that has `peft`.
const DELETE: char = '~';

/// Merges `over` over `base`: maps merge key by key, everything else (lists and null too) is replaced. Every value keeps
/// its origin, and every key its position in the map; a value's [`history`](super::history) holds its earlier values.
///
/// - A map whose `_target_` or `_factory_` differs from that of `base`, or that has a `_factory_` where `base`
///   has a `_target_`, replaces the whole map: the fields of one type mean nothing to another.
/// - `~key:` without a value deletes `key` from `base`. If `base` has no such key, the deletion stays in the result,
///   to be merged over another tree; [`leftover_deletions`] finds the deletions without effect.
pub fn merge(base: &mut Node, over: Node) {
    let is_other = has_other_type(base, &over);
    match (&base.value, over.value) {
        (Value::Map(_), Value::Map(entries)) if !is_other => {
            merge_maps(base, entries);
            base.origin = over.origin;
        }
        (_, value) => base.replace(Node {
            origin: over.origin,
            value,
            history: over.history,
        }),
    }
}

fn merge_maps(base: &mut Node, over: Map) {
    for (name, Entry { key, mut node }) in over {
        if let Some(deleted) = deletion(&name, &node)
            && base.remove(deleted, &key).is_some()
        {
            continue;
        }
        let Value::Map(map) = &mut base.value else { return };
        match map.get_mut(&name) {
            Some(below) => {
                below.key = key;
                merge(&mut below.node, node);
            }
            None => {
                base.restore_history(&name, &mut node);
                let Value::Map(map) = &mut base.value else { return };
                map.insert(name, Entry { key, node });
            }
        }
    }
}

/// Returns the key that the entry `name` deletes.
fn deletion<'a>(name: &'a str, node: &Node) -> Option<&'a str> {
    let key = name.strip_prefix(DELETE)?;
    matches!(node.value, Value::Null).then_some(key)
}

/// Returns an error for each deletion of a missing key.
pub fn leftover_deletions(root: &Node) -> Vec<ConfigError> {
    let mut found = Vec::new();
    collect(&mut Path::default(), root, &mut found);
    found
}

fn collect(path: &mut Path, node: &Node, found: &mut Vec<ConfigError>) {
    fn inside(path: &mut Path, segment: Segment, node: &Node, found: &mut Vec<ConfigError>) {
        path.0.push(segment);
        collect(path, node, found);
        path.0.pop();
    }
    match &node.value {
        Value::Seq(items) => items
            .iter()
            .enumerate()
            .for_each(|(at, item)| inside(path, Segment::Index(at), item, found)),
        Value::Map(map) => {
            let known = || map.keys().filter(|key| !key.starts_with(DELETE)).cloned().collect();
            for (name, entry) in map {
                let Some(key) = deletion(name, &entry.node) else {
                    inside(path, Segment::Key(name.clone()), &entry.node, found);
                    continue;
                };
                let problem = ProblemKind::UnknownField {
                    name: key.to_owned(),
                    allowed: known(),
                };
                let mut path = path.clone();
                path.0.push(Segment::Key(key.to_owned()));
                found.push(ConfigError::new(path, Some(entry.key.clone()), problem));
            }
        }
        _ => {}
    }
}

/// Returns whether `over` describes a value of another type than `base`.
fn has_other_type(base: &Node, over: &Node) -> bool {
    let text = |node: &Node, key| node.get(key).map(|name| name.as_text().unwrap_or_default().to_owned());
    let differs = |key| {
        text(base, key)
            .zip(text(over, key))
            .is_some_and(|(base, over)| !names::same(&base, &over))
    };
    // A class of NeMo that sets all fields of a struct replaces it.
    let whole = base.get(TARGET).is_none() && text(over, TARGET).is_some_and(|name| names::is_whole_config(&name));
    // So does the argument `config` of a class.
    let configured = over.get(CONFIG).is_some() && text(over, TARGET).is_some_and(|name| names::takes_config(&name));
    // The result of a factory replaces the value that `base` describes.
    differs(TARGET) || differs(FACTORY) || whole || configured || (base.get(TARGET).is_some() && over.get(FACTORY).is_some())
}
