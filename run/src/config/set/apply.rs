//! Edits applied to a tree.

use super::{
    Action, Edit,
    number::{Arithmetic, Number},
};
use crate::config::{
    error::{ConfigError, Problem},
    merge::merge,
    node::{Entry, Map, Node, TARGET, Value},
    path::{Path, Segment},
};

pub(super) fn edit(edit: &Edit, root: &mut Node) -> Result<(), ConfigError> {
    let last = edit.steps.len() - 1;
    let create = matches!(edit.action, Action::Set(_) | Action::Merge(_));
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
            merge(slot, value.clone());
            Ok(())
        }
        Action::Add(value) => {
            let slot = descend(edit, node, last, false)?;
            match (&mut slot.value, &value.value) {
                (Value::Seq(items), Value::Seq(more)) => items.extend(more.iter().cloned()),
                (Value::Seq(items), _) => items.push(value.clone()),
                _ => return compute(edit, slot, Arithmetic::Add, value),
            }
            Ok(())
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
            let empty = Entry {
                key: origin.clone(),
                node: Node::new(origin, Value::Map(Map::new())),
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

fn set(edit: &Edit, node: &mut Node, at: usize, value: Node) -> Result<(), ConfigError> {
    let Segment::Key(name) = &edit.steps[at].segment else {
        *descend(edit, node, at, false)? = value;
        return Ok(());
    };
    let entry = Entry {
        key: edit.origin(edit.steps[at].span),
        node: value,
    };
    let map = map(edit, node, at)?;
    // As in `merge`: the fields of one type mean nothing to another.
    if name == TARGET && map.get(TARGET).is_some_and(|old| old.node.as_text() != entry.node.as_text()) {
        map.clear();
        map.insert(name.clone(), entry);
        // What the new type misses is the doing of this edit.
        node.origin = edit.origin(edit.steps[at].span);
        return Ok(());
    }
    map.insert(name.clone(), entry);
    Ok(())
}

fn delete(edit: &Edit, node: &mut Node, at: usize) -> Result<(), ConfigError> {
    descend(edit, node, at, false)?;
    match (&edit.steps[at].segment, &mut node.value) {
        (Segment::Key(name), Value::Map(map)) => drop(map.shift_remove(name)),
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
    *slot = Node::new(value.origin.clone(), result.into());
    Ok(())
}

/// The map that step `at` looks into. Null counts as an empty one.
fn map<'a>(edit: &Edit, node: &'a mut Node, at: usize) -> Result<&'a mut Map, ConfigError> {
    let found = node.describe();
    if matches!(node.value, Value::Null) {
        node.value = Value::Map(Map::new());
    }
    match &mut node.value {
        Value::Map(map) => Ok(map),
        _ => Err(edit.error(
            at,
            Problem::WrongType {
                expected: "a map to look into".to_owned(),
                found,
                help: None,
            },
        )),
    }
}

/// The list that step `at` looks into.
fn list<'a>(edit: &Edit, node: &'a mut Node, at: usize) -> Result<&'a mut Vec<Node>, ConfigError> {
    let found = node.describe();
    match &mut node.value {
        Value::Seq(items) => Ok(items),
        _ => Err(edit.error(
            at,
            Problem::WrongType {
                expected: "a list to look into".to_owned(),
                found,
                help: None,
            },
        )),
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
        let last = self.steps.len() - 1;
        self.wrong_type(expected, slot, &Node::new(self.origin(self.steps[last].span), Value::Null))
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
