//! What a value was before it became what it is.

use std::collections::BTreeMap;

use super::{
    emit,
    node::{Node, Value},
    origin::Origin,
    path::{self, Segment},
};

/// Longest text of an earlier value, in characters.
const LIMIT: usize = 100;

/// One state of a value: what it was, and where that was written.
#[derive(Debug, Clone)]
pub struct Step {
    /// The value on one line, as YAML; `None` where it was deleted.
    pub value: Option<String>,
    /// Where it was written, or deleted.
    pub origin: Origin,
}

/// What [`Node`]s remember.
#[derive(Debug, Clone, Default)]
pub(super) struct Past {
    /// Earlier states of this value, oldest first.
    steps: Vec<Step>,
    /// All states of the keys that were deleted from this map.
    deleted: BTreeMap<String, Vec<Step>>,
    /// A reference led here: what looks like one in this value is text.
    followed: bool,
}

/// All states of the value at the dotted `path`, oldest first; the last is what it is now. Empty where the
/// tree never had such a value (it was left to its default), or `path` is not a path.
pub fn history(root: &Node, path: &str) -> Vec<Step> {
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
    node.states()
}

/// `value`, a typed value as a tree, with the origin and history that each of its values has in `tree`. What
/// `tree` does not have was left to its default.
pub fn trace(value: Node, tree: &Node) -> Node {
    inherit(value, Some(tree))
}

fn inherit(mut node: Node, from: Option<&Node>) -> Node {
    node.origin = from.map_or(Origin::Default, |from| from.origin.clone());
    node.past = from.and_then(|from| from.past.clone());
    match &mut node.value {
        Value::Map(map) => {
            for (name, entry) in map.iter_mut() {
                let source = from.and_then(|from| from.as_map()?.get(name));
                entry.key = source.map_or(Origin::Default, |source| source.key.clone());
                let value = std::mem::replace(&mut entry.node, Node::new(Origin::Default, Value::Null));
                entry.node = inherit(value, source.map(|source| &source.node));
                // What was deleted has its default again.
                if let (None, Some(steps)) = (source, from.and_then(|from| from.deleted(name))) {
                    entry.node.past_mut().steps = steps;
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
    /// Takes the place and history of `other`, which this value is a copy of.
    pub(crate) fn placed_as(&mut self, other: &Self) {
        self.origin = other.origin.clone();
        self.past = other.past.clone();
    }

    /// Puts `new` in the place of this value, which becomes a part of its history.
    pub(super) fn replace(&mut self, new: Self) {
        let steps = self.states();
        *self = new;
        self.past_mut().steps = steps;
    }

    /// Removes `key` and remembers what it was. `by` is where that was asked for.
    pub(super) fn remove(&mut self, key: &str, by: &Origin) -> Option<Self> {
        let Value::Map(map) = &mut self.value else { return None };
        let entry = map.shift_remove(key)?;
        let mut steps = entry.node.states();
        steps.push(Step {
            value: None,
            origin: by.clone(),
        });
        self.past_mut().deleted.insert(key.to_owned(), steps);
        Some(entry.node)
    }

    /// Gives a value that is about to be written at `key` the history of one that was deleted there.
    pub(super) fn revive(&mut self, key: &str, value: &mut Self) {
        let steps = self.past.as_mut().and_then(|past| past.deleted.remove(key));
        if let Some(steps) = steps {
            value.past_mut().steps = steps;
        }
    }

    /// Puts what its references gave in the place of this value.
    pub(super) fn follow(&mut self, value: Value) {
        self.replace(Self::new(self.origin.clone(), value));
        self.past_mut().followed = true;
    }

    /// Whether this is what references gave.
    pub(super) fn is_followed(&self) -> bool {
        self.past.as_ref().is_some_and(|past| past.followed)
    }

    fn past_mut(&mut self) -> &mut Past {
        self.past.get_or_insert_default()
    }

    fn deleted(&self, name: &str) -> Option<Vec<Step>> {
        self.past.as_ref()?.deleted.get(name).cloned()
    }

    /// Earlier states, and what this is now.
    pub(crate) fn states(&self) -> Vec<Step> {
        let mut steps = self.past.as_ref().map(|past| past.steps.clone()).unwrap_or_default();
        steps.push(Step {
            value: Some(shorten(emit::flow(self))),
            origin: self.origin.clone(),
        });
        steps
    }
}

fn shorten(text: String) -> String {
    match text.char_indices().nth(LIMIT) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}
