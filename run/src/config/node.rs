//! The tree that configuration lives in until its types are known.

use indexmap::IndexMap;

use super::{
    history::Past,
    origin::Origin,
    path::{self, Segment},
    scalar,
};

/// The key that names the type of a polymorphic value.
pub const TARGET: &str = "_target_";
/// The key that holds the unnamed arguments of a type, in order.
pub const ARGS: &str = "_args_";
/// The key that says that a value is a call which still waits for arguments.
pub const PARTIAL: &str = "_partial_";
/// The key that names a function which returns the value.
pub const FACTORY: &str = "_factory_";
/// The variant of an enum that takes an own type of the rank program, with its whole map. Its `_target_` is a
/// path, `my_crate::MyType`, so that a name without `::` is one that was meant to be built in.
pub(super) const CUSTOM: &str = "Custom";
/// Keys that describe how a value is built. They are never fields of the value itself.
pub const RESERVED: &[&str] = &[TARGET, PARTIAL, FACTORY, ARGS];

/// A value and the place where it was written.
#[derive(Debug, Clone)]
pub struct Node {
    /// Where the value was written.
    pub origin: Origin,
    /// What was written.
    pub value: Value,
    /// What it was before.
    pub(super) past: Option<Box<Past>>,
}

/// The value of a [`Node`].
#[derive(Debug, Clone)]
pub enum Value {
    /// No value: `null`, `~` or nothing in YAML.
    Null,
    /// A scalar without quotes, as typed: `1e-5`, `1_000`, `yes`. The type of the field that takes
    /// it decides what it means.
    Plain(String),
    /// Text: a quoted or block scalar, or a Rust string.
    Str(String),
    /// A truth value that was computed, not typed.
    Bool(bool),
    /// An integer that was computed, not typed.
    Int(i128),
    /// A floating-point number that was computed, not typed.
    Float(f64),
    /// A list.
    Seq(Vec<Node>),
    /// A map, in the order in which it was written.
    Map(Map),
}

/// The entries of a map, by key, in the order in which they were written.
pub type Map = IndexMap<String, Entry>;

/// One value of a [`Map`], with the place of its key.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Where the key was written.
    pub key: Origin,
    /// The value.
    pub node: Node,
}

impl Node {
    /// A node at `origin`.
    pub fn new(origin: Origin, value: Value) -> Self {
        Self { origin, value, past: None }
    }

    /// The entries, if this is a map.
    pub fn as_map(&self) -> Option<&Map> {
        match &self.value {
            Value::Map(map) => Some(map),
            _ => None,
        }
    }

    /// The text, if this is a scalar that was typed or a string.
    pub fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Plain(text) | Value::Str(text) => Some(text),
            _ => None,
        }
    }

    /// The value of `key`, if this is a map that has it.
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.as_map()?.get(key).map(|entry| &entry.node)
    }

    /// The node that one segment leads to.
    pub(crate) fn step(&self, segment: &Segment) -> Option<&Self> {
        match (segment, &self.value) {
            (Segment::Key(key), _) => self.get(key),
            (Segment::Index(index), Value::Seq(items)) => items.get(*index),
            _ => None,
        }
    }

    /// As [`Self::step`], to change it.
    pub(crate) fn step_mut(&mut self, segment: &Segment) -> Option<&mut Self> {
        match (segment, &mut self.value) {
            (Segment::Key(key), Value::Map(map)) => map.get_mut(key).map(|entry| &mut entry.node),
            (Segment::Index(index), Value::Seq(items)) => items.get_mut(*index),
            _ => None,
        }
    }

    /// What this is, in the words of an error message: `` `fast` ``, `a list`, `null`.
    pub(super) fn describe(&self) -> String {
        match &self.value {
            Value::Null => "null".to_owned(),
            Value::Plain(text) => format!("`{}`", shorten(text)),
            Value::Str(text) => format!("the text \"{}\"", shorten(text)),
            Value::Bool(value) => format!("`{value}`"),
            Value::Int(value) => format!("`{value}`"),
            Value::Float(value) => format!("`{}`", scalar::float_text(*value)),
            Value::Seq(_) => "a list".to_owned(),
            Value::Map(_) => "a map".to_owned(),
        }
    }
}

/// The place where the value at the dotted `path` was written, or `None` where the tree has no such
/// value (it was left to its default) or `path` is not a path.
///
/// Checks that run later on typed values know paths only; this leads them back to the text.
pub fn locate<'a>(root: &'a Node, path: &str) -> Option<&'a Origin> {
    let steps = path::steps(path).ok()?;
    let node = steps.iter().try_fold(root, |node, step| node.step(&step.segment))?;
    Some(&node.origin)
}

/// As [`locate`], but falls back to the closest value above `path` that was written.
pub(super) fn locate_nearest<'a>(root: &'a Node, path: &[Segment]) -> &'a Origin {
    let mut node = root;
    for segment in path {
        match node.step(segment) {
            Some(next) => node = next,
            None => break,
        }
    }
    &node.origin
}

/// At most 60 characters on one line: enough to recognise a value by.
fn shorten(text: &str) -> String {
    const LIMIT: usize = 60;
    let line: String = text
        .chars()
        .take(LIMIT)
        .map(|c| if matches!(c, '\n' | '\r' | '\t') { ' ' } else { c })
        .collect();
    if text.chars().nth(LIMIT).is_some() { line + "..." } else { line }
}
