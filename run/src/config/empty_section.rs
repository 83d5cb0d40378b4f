//! Empty sections of a file, which hold only comments. YAML reads them as null; they are treated as not written.

use serde::de::DeserializeOwned;

use super::{
    de,
    error::{ConfigError, ProblemKind},
    node::{Entry, Node, Value},
    path::{Path, Segment},
};

/// Returns true for a key without a value: its null has the origin of the key.
fn is_empty(entry: &Entry) -> bool {
    matches!(entry.node.value, Value::Null) && entry.node.origin.span().is_some() && entry.node.origin == entry.key
}

/// Returns true if `error` is an empty section that must be a map or a list.
fn is_rejected(root: &Node, error: &ConfigError) -> bool {
    let rejected = match &*error.problem {
        ProblemKind::UnresolvedName { .. } => true,
        ProblemKind::WrongType { expected, .. } => expected == "a list" || expected == "a map",
        _ => false,
    };
    let entry = error.path.0.split_last().and_then(|(last, parents)| {
        let parent = parents.iter().try_fold(root, |node, segment| node.step(segment))?;
        match last {
            Segment::Key(key) => parent.as_map()?.get(key),
            Segment::Index(_) => None,
        }
    });
    rejected && entry.is_some_and(is_empty)
}

/// Removes the empty section at the path of `error` from `root`. Returns whether there was one.
pub(super) fn remove_rejected(root: &mut Node, error: &ConfigError) -> bool {
    is_rejected(root, error) && de::remove(root, &error.path.0).is_some()
}

/// Removes the empty sections from `over` that would replace a map or a list of `base`, the tree of a `T`, with a null
/// that its type does not accept.
pub(crate) fn drop_empty_sections<T: DeserializeOwned>(over: &mut Node, base: &Node) {
    let mut paths = Vec::new();
    collect(&mut Path::default(), over, base, &mut paths);
    for path in paths {
        let mut probe = base.clone();
        let place = path.0.iter().try_fold(&mut probe, Node::step_mut);
        if let Some(place) = place {
            place.value = Value::Null;
        }
        if T::deserialize(&probe).is_err() {
            de::remove(over, &path.0);
        }
    }
}

fn collect(path: &mut Path, over: &Node, base: &Node, found: &mut Vec<Path>) {
    for (name, entry) in over.as_map().into_iter().flatten() {
        let Some(below) = base.get(name) else { continue };
        path.0.push(Segment::Key(name.clone()));
        if is_empty(entry) && matches!(below.value, Value::Map(_) | Value::Seq(_)) {
            found.push(path.clone());
        } else {
            collect(path, &entry.node, below, found);
        }
        path.0.pop();
    }
}
