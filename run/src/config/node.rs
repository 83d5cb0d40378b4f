//! The configuration tree before its types are known.

use indexmap::IndexMap;

use super::{
    origin::Origin,
    path::{self, Segment},
    revision::NodeHistory,
    scalar,
};

/// The key that names the type of a polymorphic value.
pub const TARGET: &str = "_target_";
/// The key that holds the unnamed arguments of a type, in order.
pub const ARGS: &str = "_args_";
/// The key that marks a value as a call that still waits for arguments.
pub const PARTIAL: &str = "_partial_";
/// The key that names a function which returns the value.
pub const FACTORY: &str = "_factory_";
/// Argument that describes all fields of a class ([`names::takes_config`](super::names::takes_config)).
pub(super) const CONFIG: &str = "config";
/// The enum variant for a custom type of the rank program; it takes the whole map. Its `_target_` is a path,
/// `my_crate::MyType`, so that a name without `::` means a built-in type.
pub(super) const CUSTOM: &str = "Custom";
/// Keys that describe how a value is built. They are never fields of the value.
pub const RESERVED: &[&str] = &[TARGET, PARTIAL, FACTORY, ARGS];

/// A value and its origin.
#[derive(Debug, Clone)]
pub struct Node {
    /// Where the value was written.
    pub origin: Origin,
    /// The value as written.
    pub value: Value,
    /// Its earlier values.
    pub(super) history: Option<Box<NodeHistory>>,
}

/// The value of a [`Node`].
#[derive(Debug, Clone)]
pub enum Value {
    /// No value: `null`, `~` or nothing in YAML.
    Null,
    /// A plain scalar, without quotes: `1e-5`, `1_000`, `yes`. The type of its field decides its meaning.
    Plain(String),
    /// Text: a quoted or block scalar, or a Rust string.
    Str(String),
    /// A boolean that was computed, not typed.
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

/// One value of a [`Map`], with the origin of its key.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Where the key was written.
    pub key: Origin,
    /// The value.
    pub node: Node,
}

impl Node {
    /// Creates a node at `origin`.
    pub fn new(origin: Origin, value: Value) -> Self {
        Self {
            origin,
            value,
            history: None,
        }
    }

    /// Returns the entries, if this is a map.
    pub fn as_map(&self) -> Option<&Map> {
        match &self.value {
            Value::Map(map) => Some(map),
            _ => None,
        }
    }

    /// Returns the text, if this is a plain scalar or text.
    pub fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Plain(text) | Value::Str(text) => Some(text),
            _ => None,
        }
    }

    /// Returns the value of `key`, if this is a map that has it.
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.as_map()?.get(key).map(|entry| &entry.node)
    }

    /// Returns the child at `segment`.
    pub(crate) fn step(&self, segment: &Segment) -> Option<&Self> {
        match (segment, &self.value) {
            (Segment::Key(key), _) => self.get(key),
            (Segment::Index(index), Value::Seq(items)) => items.get(*index),
            _ => None,
        }
    }

    /// As [`Self::step`], mutable.
    pub(crate) fn step_mut(&mut self, segment: &Segment) -> Option<&mut Self> {
        match (segment, &mut self.value) {
            (Segment::Key(key), Value::Map(map)) => map.get_mut(key).map(|entry| &mut entry.node),
            (Segment::Index(index), Value::Seq(items)) => items.get_mut(*index),
            _ => None,
        }
    }

    /// Describes the value for an error message: `` `fast` ``, `a list`, `null`.
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

/// Returns the origin of the value at the dotted `path`, or `None` if the tree has no such value (it has its default) or
/// `path` is not a path.
///
/// Checks of typed values know only paths; this maps a path to the text.
pub fn locate<'a>(root: &'a Node, path: &str) -> Option<&'a Origin> {
    let steps = path::steps(path).ok()?;
    let node = steps.iter().try_fold(root, |node, step| node.step(&step.segment))?;
    Some(&node.origin)
}

/// As [`locate`], but falls back to the closest value above `path` in the tree.
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

/// Shortens to 60 characters on one line: enough to recognise a value.
fn shorten(text: &str) -> String {
    const LIMIT: usize = 60;
    let line: String = text
        .chars()
        .take(LIMIT)
        .map(|c| if matches!(c, '\n' | '\r' | '\t') { ' ' } else { c })
        .collect();
    if text.chars().nth(LIMIT).is_some() { line + "..." } else { line }
}

/// Resolves a plain scalar without a known type: null, a boolean, a number, else text.
pub(super) fn resolve(text: &str) -> Value {
    if scalar::is_null(text) {
        Value::Null
    } else if let Some(value) = scalar::bool(text) {
        Value::Bool(value)
    } else if let Some(value) = scalar::int(text) {
        Value::Int(value)
    } else if let Some(value) = scalar::float(text) {
        Value::Float(value)
    } else {
        Value::Str(text.to_owned())
    }
}
