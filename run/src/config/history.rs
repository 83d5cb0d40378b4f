//! History of values: what a value was before each change.

use super::{
    emit,
    node::{Node, Value},
    origin::Origin,
    path::{self, Segment},
    revision::{NodeHistory, Revision},
};

/// Maximum length of an earlier value's text, in characters.
const LIMIT: usize = 100;

/// Returns all revisions of the value at the dotted `path`, oldest first; the last is its present value. Empty if the tree
/// never had such a value (it has its default), or `path` is not a path.
pub fn history(root: &Node, path: &str) -> Vec<Revision> {
    let Ok(steps) = path::steps(path) else { return Vec::new() };
    let mut node = root;
    for (at, step) in steps.iter().enumerate() {
        match node.step(&step.segment) {
            Some(next) => node = next,
            None => {
                let last = at + 1 == steps.len();
                return match &step.segment {
                    Segment::Key(name) if last => node.deleted(name).unwrap_or_default(),
                    _ => Vec::new(),
                };
            }
        }
    }
    node.revisions()
}

/// Returns `value`, the tree of a typed value, with the origins and histories of `tree`. A value that `tree` does not have
/// has its default.
pub fn trace(value: Node, tree: &Node) -> Node {
    inherit(value, Some(tree))
}

fn inherit(mut node: Node, from: Option<&Node>) -> Node {
    node.origin = from.map_or(Origin::Default, |from| from.origin.clone());
    node.history = from.and_then(|from| from.history.clone());
    match &mut node.value {
        Value::Map(map) => {
            for (name, entry) in map.iter_mut() {
                let source = from.and_then(|from| from.as_map()?.get(name));
                entry.key = source.map_or(Origin::Default, |source| source.key.clone());
                let value = std::mem::replace(&mut entry.node, Node::new(Origin::Default, Value::Null));
                entry.node = inherit(value, source.map(|source| &source.node));
                // A deleted value has its default again.
                if let (None, Some(revisions)) = (source, from.and_then(|from| from.deleted(name))) {
                    entry.node.history_mut().revisions = revisions;
                }
            }
        }
        Value::Seq(items) => {
            let taken = std::mem::take(items).into_iter().enumerate();
            *items = taken
                .map(|(index, item)| inherit(item, from.and_then(|from| from.step(&Segment::Index(index)))))
                .collect();
        }
        _ => {}
    }
    node
}

impl Node {
    /// Copies the origin and history of `other`, of which this value is a copy.
    pub(crate) fn copy_origin(&mut self, other: &Self) {
        self.origin = other.origin.clone();
        self.history = other.history.clone();
    }

    /// Replaces this value with `new`; the old value becomes part of its history.
    pub(super) fn replace(&mut self, new: Self) {
        let revisions = self.revisions();
        *self = new;
        self.history_mut().revisions = revisions;
    }

    /// Removes `key` and keeps its history. `by` is the origin of the deletion.
    pub(super) fn remove(&mut self, key: &str, by: &Origin) -> Option<Self> {
        let Value::Map(map) = &mut self.value else { return None };
        let entry = map.shift_remove(key)?;
        let mut revisions = entry.node.revisions();
        revisions.push(Revision {
            value: None,
            origin: by.clone(),
        });
        self.history_mut().deleted.insert(key.to_owned(), revisions);
        Some(entry.node)
    }

    /// Moves the history of a deleted `key` to the value that is about to be written there.
    pub(super) fn restore_history(&mut self, key: &str, value: &mut Self) {
        let revisions = self.history.as_mut().and_then(|history| history.deleted.remove(key));
        if let Some(revisions) = revisions {
            value.history_mut().revisions = revisions;
        }
    }

    /// Replaces this value with the result of following its references.
    pub(super) fn follow(&mut self, value: Value) {
        self.replace(Self::new(self.origin.clone(), value));
        self.history_mut().followed = true;
    }

    /// Returns whether this value is the result of following references.
    pub(super) fn is_followed(&self) -> bool {
        self.history.as_ref().is_some_and(|history| history.followed)
    }

    fn history_mut(&mut self) -> &mut NodeHistory {
        self.history.get_or_insert_default()
    }

    fn deleted(&self, name: &str) -> Option<Vec<Revision>> {
        self.history.as_ref()?.deleted.get(name).cloned()
    }

    /// Returns all revisions, oldest first; the last is the present value.
    pub(crate) fn revisions(&self) -> Vec<Revision> {
        let history = self.history.as_ref();
        let mut revisions = history.map(|history| history.revisions.clone()).unwrap_or_default();
        revisions.push(Revision {
            value: Some(shorten(emit::flow(self))),
            origin: self.origin.clone(),
        });
        revisions
    }
}

fn shorten(text: String) -> String {
    match text.char_indices().nth(LIMIT) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}
