//! Applies overrides to a tree.

use super::{
    Action, Override,
    number::{Arithmetic, Number},
};
use crate::config::{
    error::{ConfigError, ProblemKind},
    merge::merge,
    names,
    node::{Entry, FACTORY, Map, Node, TARGET, Value, resolve},
    origin::Origin,
    path::{Path, Segment},
};

pub(super) fn apply(over: &Override, root: &mut Node) -> Result<(), ConfigError> {
    let last = over.steps.len() - 1;
    let create = match &over.action {
        Action::Set(_) | Action::Append(_) | Action::Merge(_) => true,
        // A list to append to may be created; a number to compute with must exist.
        Action::Add(value) => matches!(value.value, Value::Seq(_)),
        Action::Compute(..) | Action::Delete => false,
    };
    let mut node = root;
    for at in 0..last {
        node = descend(over, node, at, create)?;
    }
    match &over.action {
        Action::Set(value) => set(over, node, last, value.clone()),
        Action::Merge(value) => {
            if value.as_map().is_none() {
                return Err(over.wrong_type("a map, as in `path|={a: 1}`", value, value));
            }
            let slot = descend(over, node, last, true)?;
            write_out_class(slot);
            if !matches!(slot.value, Value::Map(_) | Value::Null) {
                return Err(over.wrong_target("a map to merge into", slot));
            }
            if matches!(slot.value, Value::Null) {
                slot.replace(value.clone());
            } else {
                merge(slot, value.clone());
            }
            Ok(())
        }
        Action::Append(value) => append(over, descend(over, node, last, true)?, std::slice::from_ref(value), value),
        Action::Add(value) => {
            let slot = descend(over, node, last, create)?;
            match (&slot.value, &value.value) {
                (_, Value::Seq(more)) => append(over, slot, more, value),
                (Value::Seq(_), _) => append(over, slot, std::slice::from_ref(value), value),
                _ if is_text(slot) && value.as_text().is_some() => {
                    let joined = [slot, value].map(|node| node.as_text().unwrap_or_default().to_owned()).concat();
                    slot.replace(Node::new(value.origin.clone(), Value::Str(joined)));
                    Ok(())
                }
                _ => compute(over, slot, Arithmetic::Add, value),
            }
        }
        Action::Compute(operation, value) => compute(over, descend(over, node, last, false)?, *operation, value),
        Action::Delete => delete(over, node, last),
    }
}

/// Returns the child of `node` at step `at`; if `create` is set, a missing key is created.
fn descend<'a>(over: &Override, node: &'a mut Node, at: usize, create: bool) -> Result<&'a mut Node, ConfigError> {
    let origin = over.origin(over.steps[at].span);
    match &over.steps[at].segment {
        Segment::Key(name) if create => {
            // Steps before the last need a map; at the last, the action sets the value.
            let value = if at + 1 < over.steps.len() {
                Value::Map(Map::new())
            } else {
                Value::Null
            };
            let empty = Entry {
                key: origin.clone(),
                node: Node::new(origin, value),
            };
            Ok(&mut map(over, node, at)?.entry(name.clone()).or_insert(empty).node)
        }
        Segment::Key(name) => {
            let map = map(over, node, at)?;
            // Looked up twice, because the borrow of a found value would last into the error.
            if !map.contains_key(name) {
                let allowed = map.keys().cloned().collect();
                return Err(over.error(
                    at,
                    ProblemKind::UnknownField {
                        name: name.clone(),
                        allowed,
                    },
                ));
            }
            Ok(&mut map[name].node)
        }
        Segment::Index(index) => {
            let items = list(over, node, at)?;
            let len = items.len();
            items
                .get_mut(*index)
                .ok_or_else(|| over.error(at, ProblemKind::NoSuchItem { index: *index, len }))
        }
    }
}

fn set(over: &Override, node: &mut Node, at: usize, mut value: Node) -> Result<(), ConfigError> {
    let Segment::Key(name) = &over.steps[at].segment else {
        descend(over, node, at, false)?.replace(value);
        return Ok(());
    };
    let key = over.origin(over.steps[at].span);
    let entries = map(over, node, at)?;
    // As in `merge`: the fields of one type mean nothing to another.
    let same = |old: &Entry| match (old.node.as_text(), value.as_text()) {
        (Some(old), Some(new)) => names::same(old, new),
        (old, new) => old == new,
    };
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
        // Fields that the new type misses are reported at this override.
        node.replace(Node::new(key, Value::Map(only)));
        return Ok(());
    }
    match entries.get_mut(name) {
        Some(entry) => {
            entry.key = key;
            entry.node.replace(value);
        }
        None => {
            node.restore_history(name, &mut value);
            map(over, node, at)?.insert(name.clone(), Entry { key, node: value });
        }
    }
    Ok(())
}

fn append(over: &Override, slot: &mut Node, more: &[Node], shown: &Node) -> Result<(), ConfigError> {
    let items = match &slot.value {
        Value::Seq(items) => [items, more].concat(),
        Value::Null => more.to_vec(),
        _ => return Err(over.wrong_target("a list to append to", slot)),
    };
    slot.replace(Node::new(shown.origin.clone(), Value::Seq(items)));
    Ok(())
}

fn delete(over: &Override, node: &mut Node, at: usize) -> Result<(), ConfigError> {
    descend(over, node, at, false)?;
    match (&over.steps[at].segment, &mut node.value) {
        (Segment::Key(name), _) => drop(node.remove(name, &over.origin(over.steps[at].span))),
        (Segment::Index(index), Value::Seq(items)) => drop(items.remove(*index)),
        _ => {}
    }
    Ok(())
}

/// Returns true for a value that is text for every type: it is quoted, or has no other meaning.
fn is_text(node: &Node) -> bool {
    match &node.value {
        Value::Str(_) => true,
        Value::Plain(text) => matches!(resolve(text), Value::Str(_)) && !text.starts_with('('),
        _ => false,
    }
}

fn compute(over: &Override, slot: &mut Node, operation: Arithmetic, value: &Node) -> Result<(), ConfigError> {
    let Some(left) = Number::of(slot) else {
        let expected = if operation == Arithmetic::Add {
            "a list, a text or a number"
        } else {
            "a number"
        };
        return Err(over.wrong_target(expected, slot));
    };
    let Some(right) = Number::of(value) else {
        return Err(over.wrong_type("a number", value, value));
    };
    let Some(result) = left.compute(operation, right) else {
        let message = match operation {
            Arithmetic::Divide if right.is_zero() => "division by zero".to_owned(),
            _ => format!(
                "the result of {} and {} is too large to be a number",
                slot.describe(),
                value.describe()
            ),
        };
        let problem = ProblemKind::Invalid { message, help: None };
        return Err(ConfigError::new(over.path(), Some(value.origin.clone()), problem));
    };
    slot.replace(Node::new(value.origin.clone(), result.into()));
    Ok(())
}

/// Replaces the text `optim.AdamW` by `{_target_: optim.AdamW}`, which has room for fields.
fn write_out_class(node: &mut Node) {
    if node.as_text().is_some_and(names::is_class_form) {
        let target = Entry {
            key: node.origin.clone(),
            node: node.clone(),
        };
        let map = Map::from([(TARGET.to_owned(), target)]);
        node.replace(Node::new(node.origin.clone(), Value::Map(map)));
    }
}

/// Returns the map that step `at` descends into. Null counts as an empty map, and `optim.AdamW` alone as that type with
/// its defaults.
fn map<'a>(over: &Override, node: &'a mut Node, at: usize) -> Result<&'a mut Map, ConfigError> {
    write_out_class(node);
    if matches!(node.value, Value::Null) {
        let empty = Node::new(over.origin(over.steps[at].span), Value::Map(Map::new()));
        node.replace(empty);
    }
    // Created before the borrow of the entries, which would last into the error.
    let problem = wrong_target("a map to descend into", node);
    match &mut node.value {
        Value::Map(map) => Ok(map),
        _ => Err(over.error(at, problem)),
    }
}

/// Returns the list that step `at` descends into.
fn list<'a>(over: &Override, node: &'a mut Node, at: usize) -> Result<&'a mut Vec<Node>, ConfigError> {
    let problem = wrong_target("a list to descend into", node);
    match &mut node.value {
        Value::Seq(items) => Ok(items),
        _ => Err(over.error(at, problem)),
    }
}

impl Override {
    /// Creates an error for the path up to step `at`.
    fn error(&self, at: usize, problem: ProblemKind) -> ConfigError {
        let path = Path(self.steps[..=at].iter().map(|step| step.segment.clone()).collect());
        ConfigError::new(path, Some(self.origin(self.steps[at].span)), problem)
    }

    /// Creates the error of an override that does not apply to the present value.
    fn wrong_target(&self, expected: &str, slot: &Node) -> ConfigError {
        self.error(self.steps.len() - 1, wrong_target(expected, slot))
    }

    fn wrong_type(&self, expected: &str, found: &Node, shown: &Node) -> ConfigError {
        let problem = ProblemKind::WrongType {
            expected: expected.to_owned(),
            found: found.describe(),
            help: None,
        };
        ConfigError::new(self.path(), Some(shown.origin.clone()), problem)
    }
}

/// Creates the problem of a present value of a wrong type, with its origin.
fn wrong_target(expected: &str, met: &Node) -> ProblemKind {
    let help = match &met.origin {
        Origin::Default => None,
        origin => Some(format!("{} comes from {origin}", met.describe())),
    };
    ProblemKind::WrongType {
        expected: expected.to_owned(),
        found: met.describe(),
        help,
    }
}
