//! Differences between two trees, as lines for people.

use std::fmt;

use super::{
    emit,
    node::{Node, Value, resolve},
    origin::Origin,
    path::{Path, Segment},
};

/// One difference between two trees.
#[derive(Debug, Clone)]
pub struct Difference {
    /// The dotted path of the value.
    pub path: Path,
    /// The value in the first tree; `None` if it has none.
    pub left: Option<Side>,
    /// The value in the second tree; `None` if it has none.
    pub right: Option<Side>,
}

/// One side of a [`Difference`].
#[derive(Debug, Clone)]
pub struct Side {
    /// The value on one line, as YAML.
    pub value: String,
    /// Where it was written.
    pub origin: Origin,
}

/// Returns the differences between `left` and `right` in the order of `left`, then the values that only `right` has.
///
/// Values are compared by meaning, not by spelling: `1_000` equals `1000` and `1e3` equals `1000.0`. Maps are compared
/// key by key in any order, lists of maps item by item, and lists of scalars as one value.
pub fn diff(left: &Node, right: &Node) -> Vec<Difference> {
    let mut differences = Vec::new();
    compare(&mut Path::default(), left, right, &mut differences);
    differences
}

fn compare(path: &mut Path, left: &Node, right: &Node, found: &mut Vec<Difference>) {
    match (&left.value, &right.value) {
        (Value::Map(ours), Value::Map(theirs)) => {
            for (name, entry) in ours {
                let theirs = theirs.get(name).map(|entry| &entry.node);
                descend(path, Segment::Key(name.clone()), Some(&entry.node), theirs, found);
            }
            for (name, entry) in theirs.iter().filter(|(name, _)| !ours.contains_key(*name)) {
                descend(path, Segment::Key(name.clone()), None, Some(&entry.node), found);
            }
        }
        (Value::Seq(ours), Value::Seq(theirs)) if ours.iter().chain(theirs).any(is_container) => {
            for index in 0..ours.len().max(theirs.len()) {
                descend(path, Segment::Index(index), ours.get(index), theirs.get(index), found);
            }
        }
        _ if same(left, right) => {}
        _ => found.push(Difference {
            path: path.clone(),
            left: Some(Side::of(left)),
            right: Some(Side::of(right)),
        }),
    }
}

fn descend(path: &mut Path, segment: Segment, left: Option<&Node>, right: Option<&Node>, found: &mut Vec<Difference>) {
    path.0.push(segment);
    match (left, right) {
        (Some(left), Some(right)) => compare(path, left, right, found),
        _ => found.push(Difference {
            path: path.clone(),
            left: left.map(Side::of),
            right: right.map(Side::of),
        }),
    }
    path.0.pop();
}

fn is_container(node: &Node) -> bool {
    matches!(node.value, Value::Seq(_) | Value::Map(_))
}

/// Returns whether two nodes have the same meaning, regardless of origin and spelling.
pub(super) fn same(left: &Node, right: &Node) -> bool {
    match (&left.value, &right.value) {
        (Value::Map(left), Value::Map(right)) => {
            let equal = |(name, entry): (&String, &super::Entry)| right.get(name).is_some_and(|other| same(&entry.node, &other.node));
            left.len() == right.len() && left.iter().all(equal)
        }
        (Value::Seq(left), Value::Seq(right)) => left.len() == right.len() && left.iter().zip(right).all(|(l, r)| same(l, r)),
        // A plain scalar equals a text of the same characters: a text field accepts both.
        (Value::Plain(left) | Value::Str(left), Value::Plain(right) | Value::Str(right)) if left == right => true,
        (left, right) => same_scalar(&meaning(left), &meaning(right)),
    }
}

/// Resolves a plain scalar as if no type were known.
fn meaning(value: &Value) -> Value {
    match value {
        Value::Plain(text) => resolve(text),
        value => value.clone(),
    }
}

fn same_scalar(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Null, Value::Null) => true,
        (Value::Str(left), Value::Str(right)) => left == right,
        (Value::Bool(left), Value::Bool(right)) => left == right,
        (Value::Int(left), Value::Int(right)) => left == right,
        (Value::Float(left), Value::Float(right)) => left == right || (left.is_nan() && right.is_nan()),
        (Value::Int(int), Value::Float(float)) | (Value::Float(float), Value::Int(int)) => *int as f64 == *float,
        _ => false,
    }
}

/// Trees are equal if they have the same meaning, regardless of origins; see [`diff`].
impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        same(self, other)
    }
}

impl Side {
    fn of(node: &Node) -> Self {
        Self {
            value: emit::flow(node),
            origin: node.origin.clone(),
        }
    }
}

/// `finetune.optim.lr: 0.0001 -> 2e-5 (recipe llava15_7b -> --set finetune.optim.lr=2e-5)`
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = |side: &Option<Side>| side.as_ref().map_or_else(|| "(absent)".to_owned(), |side| side.value.clone());
        write!(f, "{}: {} -> {}", self.path, value(&self.left), value(&self.right))?;
        match (&self.left, &self.right) {
            (Some(left), Some(right)) if left.origin == right.origin => write!(f, " ({})", left.origin),
            (Some(left), Some(right)) => write!(f, " ({} -> {})", left.origin, right.origin),
            (Some(side), None) | (None, Some(side)) => write!(f, " ({})", side.origin),
            (None, None) => Ok(()),
        }
    }
}
