//! References: `${finetune.data.seq_length}`.
//!
//! | written | means |
//! |---|---|
//! | `${path}`, as the whole of a value | the value at `path`: a number, a list, a map |
//! | `run-${num_nodes}` | a text that contains the value at `num_nodes` |
//! | `${env:NAME}`, `${env:NAME:default}` | an environment variable that the file lists: `_env_: [NAME]` |
//! | `$${`, `$$${path}` | the text `${`; the text `$` and the value at `path`: before `{`, `$$` means `$` |
//!
//! Paths start at the top of the configuration. Variables must be listed, so that a file shows which parts of the
//! environment its run depends on. A variable that looks like a secret is rejected, because its value would be written
//! into every record of the run. Values that code computed are not searched for references.

mod escape;
mod missing;
mod template;

use neva_schemas::is_secret_name;
use std::collections::BTreeSet;

pub use self::escape::escape;
use self::missing::missing;
use self::template::{Name, Part, Variable};
use super::{
    error::{ConfigError, ProblemKind},
    node::{Entry, Map, Node, Value},
    origin::Origin,
    path::{self, Path, Segment},
    problems::Problems,
    scalar, yaml,
};

/// Maximum number of values, and of bytes of text, that all references together may add: a few nested references could
/// otherwise exhaust the memory.
const MAX_NODES: usize = 100_000;
const MAX_BYTES: usize = 1 << 20;
/// The key at the top of a file that lists the variables which references may read.
pub const ENV: &str = "_env_";

/// The variables that references may read.
pub struct Environment<'a> {
    /// The variables that the configuration lists.
    pub allowed: BTreeSet<String>,
    /// Returns the value of a variable, or `None` if it is not set.
    pub read: &'a dyn Fn(&str) -> Option<String>,
}

/// Returns `part`, the value at `path` of the tree `root`, with every reference replaced by its value in `root`.
///
/// # Errors
/// All references that cannot be followed: to a missing value, in a cycle, to a variable that is not listed, not set or
/// a secret.
pub fn interpolate(root: &Node, part: &Node, path: &Path, environment: &Environment<'_>) -> Result<Node, Problems> {
    let mut reader = Reader {
        root,
        environment,
        stack: Vec::new(),
        nodes: 0,
        bytes: 0,
    };
    let mut errors = Vec::new();
    let node = reader.rewrite(part, path, &mut errors);
    Problems::check(errors)?;
    Ok(node)
}

/// Returns whether a value in `node` has references.
pub fn has_references(node: &Node) -> bool {
    match &node.value {
        Value::Seq(items) => items.iter().any(has_references),
        Value::Map(map) => map.values().any(|entry| has_references(&entry.node)),
        _ => template::text(node).is_some(),
    }
}

/// A reference that is being followed.
struct Hop {
    path: String,
    origin: Origin,
}

struct Reader<'a> {
    root: &'a Node,
    environment: &'a Environment<'a>,
    /// The references that are being followed, outermost first.
    stack: Vec<Hop>,
    nodes: usize,
    bytes: usize,
}

impl Reader<'_> {
    /// Returns the tree without references. References that cannot be followed stay and are added to `errors`.
    fn rewrite(&mut self, node: &Node, path: &Path, errors: &mut Vec<ConfigError>) -> Node {
        let mut inside = |reader: &mut Self, segment, node: &Node| {
            let mut path = path.clone();
            path.0.push(segment);
            reader.rewrite(node, &path, errors)
        };
        let value = match &node.value {
            Value::Seq(items) => {
                let items = items.iter().enumerate();
                Value::Seq(items.map(|(at, item)| inside(self, Segment::Index(at), item)).collect())
            }
            Value::Map(map) => Value::Map(rewritten(map, |name, node| inside(self, Segment::Key(name.to_owned()), node))),
            _ => match self.followed(node) {
                Ok(followed) => return followed.unwrap_or_else(|| node.clone()),
                Err(error) => {
                    self.stack.clear();
                    // Several references may lead to the same problem, which is reported once.
                    let is_same = |other: &ConfigError| other.origin == error.origin && other.problem == error.problem;
                    if !errors.iter().any(is_same) {
                        let path = path.clone();
                        errors.push(ConfigError { path, ..error });
                    }
                    return node.clone();
                }
            },
        };
        Node { value, ..node.clone() }
    }

    /// Returns the value of the scalar `node` with its references followed; `None` if it has none.
    fn followed(&mut self, node: &Node) -> Result<Option<Node>, ConfigError> {
        let Some(text) = template::text(node) else { return Ok(None) };
        let value = match template::parts(text, &node.origin)?.as_slice() {
            [Part::Value(path)] => self.value(path)?,
            [Part::Variable(variable)] => match self.variable(variable)? {
                // An empty variable is text, not null.
                empty if empty.is_empty() => Value::Str(empty),
                typed => Value::Plain(typed),
            },
            parts => Value::Str(self.joined(parts)?),
        };
        let mut followed = node.clone();
        followed.follow(value);
        Ok(Some(followed))
    }

    fn joined(&mut self, parts: &[Part]) -> Result<String, ConfigError> {
        let mut joined = String::new();
        for part in parts {
            let text = match part {
                Part::Text(text) => text.clone(),
                Part::Variable(variable) => self.variable(variable)?,
                Part::Value(path) => {
                    let node = Node::new(path.origin.clone(), self.value(path)?);
                    as_text(&node).ok_or_else(|| {
                        let message = format!("{} cannot be part of a text", node.describe());
                        let help = Some("let the reference be the whole value".to_owned());
                        invalid(&path.origin, message, help)
                    })?
                }
            };
            self.bytes += text.len();
            self.check_size(part.origin())?;
            joined.push_str(&text);
        }
        Ok(joined)
    }

    /// Returns the value at the path `wanted`, without references.
    fn value(&mut self, wanted: &Name) -> Result<Value, ConfigError> {
        let Name { text, origin } = wanted;
        let steps = path::steps(text).map_err(|error| invalid(origin, format!("`{text}` is not a path: {error}"), None))?;
        if let Some(at) = self.stack.iter().position(|hop| hop.path == *text) {
            return Err(self.cycle(at, wanted));
        }
        if self.stack.len() == yaml::MAX_DEPTH {
            let message = format!("more than {} references refer to each other in a chain", yaml::MAX_DEPTH);
            return Err(invalid(origin, message, None));
        }
        self.stack.push(Hop {
            path: text.clone(),
            origin: origin.clone(),
        });
        let value = self.walk(self.root, &steps, 0, wanted)?;
        self.stack.pop();
        Ok(value.value)
    }

    /// Returns the value at `steps[at..]` below `node`; follows references on the path.
    fn walk(&mut self, node: &Node, steps: &[path::Step], at: usize, wanted: &Name) -> Result<Node, ConfigError> {
        let Some(step) = steps.get(at) else {
            return self.copy(node, 0, &wanted.origin);
        };
        if let Some(followed) = self.followed(node)? {
            return self.walk(&followed, steps, at, wanted);
        }
        match node.step(&step.segment) {
            Some(next) => self.walk(next, steps, at + 1, wanted),
            None => Err(missing(node, &step.segment, wanted)),
        }
    }

    /// Returns a copy of `node` without references.
    fn copy(&mut self, node: &Node, depth: usize, origin: &Origin) -> Result<Node, ConfigError> {
        self.nodes += 1;
        self.check_size(origin)?;
        if depth > yaml::MAX_DEPTH {
            return Err(invalid(
                origin,
                format!("this is nested more than {} levels deep", yaml::MAX_DEPTH),
                None,
            ));
        }
        let value = match &node.value {
            Value::Seq(items) => Value::Seq(
                items
                    .iter()
                    .map(|item| self.copy(item, depth + 1, origin))
                    .collect::<Result<_, _>>()?,
            ),
            Value::Map(map) => {
                let mut copy = map.clone();
                for entry in copy.values_mut() {
                    entry.node = self.copy(&entry.node, depth + 1, origin)?;
                }
                Value::Map(copy)
            }
            _ => {
                self.bytes += node.as_text().map_or(0, str::len);
                return Ok(self.followed(node)?.unwrap_or_else(|| node.clone()));
            }
        };
        Ok(Node { value, ..node.clone() })
    }

    fn check_size(&self, origin: &Origin) -> Result<(), ConfigError> {
        if self.nodes <= MAX_NODES && self.bytes <= MAX_BYTES {
            return Ok(());
        }
        let message = format!("too large: references may add {MAX_NODES} values and {MAX_BYTES} bytes of text");
        Err(invalid(origin, message, None))
    }

    /// Returns the error of a cycle: `a` refers to `b`, which refers to `a`. The error is the same wherever the cycle was
    /// entered, so that it is reported once.
    fn cycle(&self, at: usize, wanted: &Name) -> ConfigError {
        // The reference that entered the cycle is not part of it: its first hop is referred to by the last.
        let mut hops: Vec<(&str, &Origin)> = self.stack[at..].iter().map(|hop| (hop.path.as_str(), &hop.origin)).collect();
        if let Some(first) = hops.first_mut() {
            first.1 = &wanted.origin;
        }
        let start = (0..hops.len()).min_by_key(|at| hops[*at].0).unwrap_or_default();
        hops.rotate_left(start);
        let origin = hops.first().map_or(&wanted.origin, |(_, origin)| origin);
        let chain = hops.iter().chain(hops.first()).map(|(path, origin)| format!("{path} ({origin})"));
        let chain = chain.collect::<Vec<_>>().join(" -> ");
        let help = Some("replace one of these references by a value".to_owned());
        invalid(origin, format!("these references form a cycle: {chain}"), help)
    }

    fn variable(&mut self, variable: &Variable) -> Result<String, ConfigError> {
        let Name { text: name, origin } = &variable.name;
        let fail = |message, help| Err(invalid(origin, message, help));
        if is_secret_name(name) {
            let help = "the engine's libraries and the executors read secrets from the environment themselves".to_owned();
            let message = format!("`{name}` looks like a secret, and would be written into the records of the run");
            return fail(message, Some(help));
        }
        if !self.environment.allowed.contains(name) {
            let help = format!("add `{ENV}: [{name}]` at the top of the file, or `--set '{ENV}+=[{name}]'`");
            return fail(
                format!("this configuration does not list the environment variable `{name}`"),
                Some(help),
            );
        }
        match ((self.environment.read)(name), &variable.default) {
            (Some(value), _) => Ok(value),
            (None, Some(default)) => Ok(default.clone()),
            (None, None) => {
                let help = format!("set it, or write a default: `${{env:{name}:...}}`");
                fail(format!("`{name}` is not set in the environment"), Some(help))
            }
        }
    }
}

fn rewritten(map: &Map, mut rewrite: impl FnMut(&str, &Node) -> Node) -> Map {
    let entry = |(name, entry): (&String, &Entry)| {
        let (key, node) = (entry.key.clone(), rewrite(name, &entry.node));
        (name.clone(), Entry { key, node })
    };
    map.iter().map(entry).collect()
}

/// Returns a scalar as part of a text; `None` for null, lists and maps.
fn as_text(node: &Node) -> Option<String> {
    match &node.value {
        Value::Plain(text) | Value::Str(text) => Some(text.clone()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Int(value) => Some(value.to_string()),
        Value::Float(value) => Some(scalar::float_text(*value)),
        Value::Null | Value::Seq(_) | Value::Map(_) => None,
    }
}

fn invalid(origin: &Origin, message: String, help: Option<String>) -> ConfigError {
    ConfigError::new(Path::default(), Some(origin.clone()), ProblemKind::Invalid { message, help })
}
