//! Edits applied to a tree.

use super::{
    Action, Edit,
    number::{Arithmetic, Number},
};
use crate::config::{
    error::{ConfigError, Problem},
    merge::merge,
    node::{Entry, FACTORY, Map, Node, TARGET, Value},
    origin::Origin,
    path::{Path, Segment},
};

pub(super) fn edit(edit: &Edit, root: &mut Node) -> Result<(), ConfigError> {
    let last = edit.steps.len() - 1;
    let create = match &edit.action {
        Action::Set(_) | Action::Append(_) | Action::Merge(_) => true,
        // A list to append to may not be there yet; there is no number to compute with that is not.
        Action::Add(value) => matches!(value.value, Value::Seq(_)),
        Action::Compute(..) | Action::Delete => false,
    };
    let mut node = root;
    for at in 0..last {
        node = descend(edit, node, at, create)?;
    }
    match &edit.action {
        Action::Set(value) => set(edit, node, last, value.clone()),
        Action::Merge(value) => {
            if value.as_map().is_none() {
                return Err(edit.wrong_type("a map, as in `path|={a: 1}`", value, value));
            }
            let slot = descend(edit, node, last, true)?;
            if !matches!(slot.value, Value::Map(_) | Value::Null) {
                return Err(edit.wrong_target("a map to merge into", slot));
            }
            if matches!(slot.value, Value::Null) {
                slot.replace(value.clone());
            } else {
                merge(slot, value.clone());
            }
            Ok(())
        }
        Action::Append(value) => append(edit, descend(edit, node, last, true)?, std::slice::from_ref(value), value),
        Action::Add(value) => {
            let slot = descend(edit, node, last, create)?;
            match (&slot.value, &value.value) {
                (_, Value::Seq(more)) => append(edit, slot, more, value),
                (Value::Seq(_), _) => append(edit, slot, std::slice::from_ref(value), value),
                _ => compute(edit, slot, Arithmetic::Add, value),
            }
        }
        Action::Compute(operation, value) => compute(edit, descend(edit, node, last, false)?, *operation, value),
        Action::Delete => delete(edit, node, last),
    }
}

/// The node that step `at` leads to from `node`; where `create` is set, a missing key becomes an empty
/// map.
fn descend<'a>(edit: &Edit, node: &'a mut Node, at: usize, create: bool) -> Result<&'a mut Node, ConfigError> {
    let origin = edit.origin(edit.steps[at].span);
    match &edit.steps[at].segment {
        Segment::Key(name) if create => {
            // On the way a map is meant; at the end the action says what.
            let value = if at + 1 < edit.steps.len() {
                Value::Map(Map::new())
            } else {
                Value::Null
            };
            let empty = Entry {
                key: origin.clone(),
                node: Node::new(origin, value),
            };
            Ok(&mut map(edit, node, at)?.entry(name.clone()).or_insert(empty).node)
        }
        Segment::Key(name) => {
            let map = map(edit, node, at)?;
            // Looked up twice, as the borrow of a found value would last into the error.
            if !map.contains_key(name) {
                let allowed = map.keys().cloned().collect();
                return Err(edit.error(
                    at,
                    Problem::UnknownField {
                        name: name.clone(),
                        allowed,
                    },
                ));
            }
            Ok(&mut map[name].node)
        }
        Segment::Index(index) => {
            let items = list(edit, node, at)?;
            let len = items.len();
            items
                .get_mut(*index)
                .ok_or_else(|| edit.error(at, Problem::NoSuchItem { index: *index, len }))
        }
    }
}

fn set(edit: &Edit, node: &mut Node, at: usize, mut value: Node) -> Result<(), ConfigError> {
    let Segment::Key(name) = &edit.steps[at].segment else {
        descend(edit, node, at, false)?.replace(value);
        return Ok(());
    };
    let key = edit.origin(edit.steps[at].span);
    let entries = map(edit, node, at)?;
    // As in `merge`: the fields of one type mean nothing to another.
    let same = |old: &Entry| old.node.as_text() == value.as_text();
    let is_other = match name.as_str() {
        TARGET => entries.get(TARGET).is_some_and(|old| !same(old)),
        FACTORY => !entries.get(FACTORY).is_some_and(same),
        _ => false,
    };
    if is_other {
        let only = Map::from([(
            name.clone(),
            Entry {
                key: key.clone(),
                node: value,
            },
        )]);
        // What the new type misses is the doing of this edit.
        node.replace(Node::new(key, Value::Map(only)));
        return Ok(());
    }
    match entries.get_mut(name) {
        Some(entry) => {
            entry.key = key;
            entry.node.replace(value);
        }
        None => {
            node.revive(name, &mut value);
            map(edit, node, at)?.insert(name.clone(), Entry { key, node: value });
        }
    }
    Ok(())
}

fn append(edit: &Edit, slot: &mut Node, more: &[Node], shown: &Node) -> Result<(), ConfigError> {
    let items = match &slot.value {
        Value::Seq(items) => [items, more].concat(),
        Value::Null => more.to_vec(),
        _ => return Err(edit.wrong_target("a list to append to", slot)),
    };
    slot.replace(Node::new(shown.origin.clone(), Value::Seq(items)));
    Ok(())
}

fn delete(edit: &Edit, node: &mut Node, at: usize) -> Result<(), ConfigError> {
    descend(edit, node, at, false)?;
    match (&edit.steps[at].segment, &mut node.value) {
        (Segment::Key(name), _) => drop(node.remove(name, &edit.origin(edit.steps[at].span))),
        (Segment::Index(index), Value::Seq(items)) => drop(items.remove(*index)),
        _ => {}
    }
    Ok(())
}

fn compute(edit: &Edit, slot: &mut Node, operation: Arithmetic, value: &Node) -> Result<(), ConfigError> {
    let Some(left) = Number::of(slot) else {
        let expected = if operation == Arithmetic::Add {
            "a list or a number"
        } else {
            "a number"
        };
        return Err(edit.wrong_target(expected, slot));
    };
    let Some(right) = Number::of(value) else {
        return Err(edit.wrong_type("a number", value, value));
    };
    let Some(result) = left.compute(operation, right) else {
        let message = format!("this computes no number from {} and {}", slot.describe(), value.describe());
        let problem = Problem::Invalid { message, help: None };
        return Err(ConfigError::new(edit.path(), Some(value.origin.clone()), problem));
    };
    slot.replace(Node::new(value.origin.clone(), result.into()));
    Ok(())
}

/// The map that step `at` looks into. Null counts as an empty one.
fn map<'a>(edit: &Edit, node: &'a mut Node, at: usize) -> Result<&'a mut Map, ConfigError> {
    if matches!(node.value, Value::Null) {
        let empty = Node::new(edit.origin(edit.steps[at].span), Value::Map(Map::new()));
        node.replace(empty);
    }
    // Told before the borrow of the entries, which would last into the error.
    let problem = wrong_target("a map to look into", node);
    match &mut node.value {
        Value::Map(map) => Ok(map),
        _ => Err(edit.error(at, problem)),
    }
}

/// The list that step `at` looks into.
fn list<'a>(edit: &Edit, node: &'a mut Node, at: usize) -> Result<&'a mut Vec<Node>, ConfigError> {
    let problem = wrong_target("a list to look into", node);
    match &mut node.value {
        Value::Seq(items) => Ok(items),
        _ => Err(edit.error(at, problem)),
    }
}

impl Edit {
    /// A problem with the path, found at step `at`.
    fn error(&self, at: usize, problem: Problem) -> ConfigError {
        let path = Path(self.steps[..=at].iter().map(|step| step.segment.clone()).collect());
        ConfigError::new(path, Some(self.origin(self.steps[at].span)), problem)
    }

    /// The value that the edit meets is not one that it works on.
    fn wrong_target(&self, expected: &str, slot: &Node) -> ConfigError {
        self.error(self.steps.len() - 1, wrong_target(expected, slot))
    }

    fn wrong_type(&self, expected: &str, found: &Node, shown: &Node) -> ConfigError {
        let problem = Problem::WrongType {
            expected: expected.to_owned(),
            found: found.describe(),
            help: None,
        };
        ConfigError::new(self.path(), Some(shown.origin.clone()), problem)
    }
}

/// What an edit meets, and who wrote it.
fn wrong_target(expected: &str, met: &Node) -> Problem {
    let help = match &met.origin {
        Origin::Default => None,
        origin => Some(format!("{} comes from {origin}", met.describe())),
    };
    Problem::WrongType {
        expected: expected.to_owned(),
        found: met.describe(),
        help,
    }
}
