//! Calls and named functions that stand for a value, where the type admits one.
//!
//! | written where a value of type `Model` is asked for | means |
//! |---|---|
//! | `vlm.LlavaModel(freeze_vision_model=true)` | `{_target_: vlm.LlavaModel, freeze_vision_model: true}` |
//! | `sized(hidden=7)`, or `sized` where it needs no arguments | what the factory `sized` of `Model` returns |
//! | `sized(text=wide(hidden=7))` | the same, of an argument that the factory `wide` of its type returns |
//! | `{_factory_: sized, hidden: 7}` | the same |
//! | `{_factory_: sized(hidden=7), layers: 9}` | the same, and the other keys are laid over it |
//!
//! Only the type of a place makes a text a call: the deserializer finds a text where an enum or a struct is
//! asked for, and says so; the value is then put in the tree in the place of the text. So a text that reads
//! like a call, or like the name of a factory, stays a text where a text is asked for.

pub(super) mod call;
mod registry;

use serde::de::DeserializeOwned;

pub use self::registry::{Factories, NoArguments};
use super::{
    de,
    error::{ConfigError, Problem},
    merge::merge,
    node::{CUSTOM, Entry, FACTORY, Map, Node, TARGET, Value},
    path::Path,
    problems::Problems,
};

/// Most calls in one tree. Factories may return calls; without an end to it, one that returns itself would not.
const MAX_CALLS: usize = 1000;

/// The typed value that `root` describes. Every call in it is replaced by what it returns, so that `root`
/// holds each value, with its place, when this is done.
///
/// # Errors
/// All values that do not fit their types, and the first call that cannot be made.
pub fn build<T: DeserializeOwned>(root: &mut Node, factories: &Factories) -> Result<T, Problems> {
    // A call that cannot be made is told beside what else is wrong.
    let made = expand::<T>(root, factories);
    match (made, de::typed(root, factories)) {
        (Ok(()), typed) => typed,
        (Err(error), Err(mut problems)) => {
            problems.put_first(error);
            Err(problems)
        }
        (Err(error), Ok(_)) => Err(error.into()),
    }
}

/// Replaces the calls in `root`. A value that does not fit its type is passed over, and a call that cannot be
/// made is left as it is.
///
/// # Errors
/// The first call that cannot be made.
pub fn expand<T: DeserializeOwned>(root: &mut Node, factories: &Factories) -> Result<(), ConfigError> {
    // A copy of `root` without what was passed over, once there is such a value.
    let mut fitting: Option<Node> = None;
    let mut failed = None;
    let mut calls = 0;
    while let Err(error) = T::deserialize(fitting.as_ref().unwrap_or(root)) {
        let made = make_at(root, &error, factories).unwrap_or_else(|reason| {
            failed.get_or_insert(reason);
            None
        });
        let Some(value) = made else {
            if de::remove(fitting.get_or_insert_with(|| root.clone()), &error.path.0).is_none() {
                break;
            }
            continue;
        };
        for tree in [Some(&mut *root), fitting.as_mut()].into_iter().flatten() {
            if let Some(node) = at_mut(tree, &error.path) {
                node.replace(value.clone());
            }
        }
        calls += 1;
        if calls > MAX_CALLS {
            let message = format!("more than {MAX_CALLS} calls, or a factory that returns a call of itself");
            return Err(ConfigError::new(error.path, error.origin, Problem::Invalid { message, help: None }));
        }
    }
    failed.map_or(Ok(()), Err)
}

/// What the value that `error` complains of stands for, if it is a call.
fn make_at(root: &mut Node, error: &ConfigError, factories: &Factories) -> Result<Option<Node>, ConfigError> {
    let (Problem::NotBuilt { type_name, names, .. }, Some(node)) = (&*error.problem, at_mut(root, &error.path)) else {
        return Ok(None);
    };
    make(node, type_name, names, factories).map_err(|problem| {
        let path = Path([error.path.0.clone(), problem.path.0.clone()].concat());
        ConfigError {
            path,
            ..problem.or_at(&node.origin)
        }
    })
}

/// What `node` stands for, or `None` where neither its type nor a factory of it has the name.
fn make(node: &Node, type_name: &str, names: &[String], factories: &Factories) -> Result<Option<Node>, ConfigError> {
    let mut beside = node.as_map().cloned().unwrap_or_default();
    let factory = beside.shift_remove(FACTORY);
    let written = factory.as_ref().map_or(node, |entry| &entry.node);
    let Some(text) = written.as_text() else { return Ok(None) };
    let (name, arguments) = if call::is_call(text) {
        let call = call::call(text, &written.origin)?;
        (call.name, call.arguments)
    } else {
        (text.to_owned(), std::mem::take(&mut beside))
    };
    let arguments = Node::new(node.origin.clone(), Value::Map(arguments));
    let is_type = names.contains(&name) || (name.contains("::") && names.iter().any(|name| name == CUSTOM));
    let mut made = match factories.find(type_name, &name) {
        Some(factory) => factory(arguments, factories)?,
        None if is_type => typed_map(name, written, arguments),
        None => return Ok(None),
    };
    if !beside.is_empty() {
        merge(&mut made, Node::new(node.origin.clone(), Value::Map(beside)));
    }
    Ok(Some(made))
}

/// `{_target_: name, ..arguments}`
fn typed_map(name: String, written: &Node, arguments: Node) -> Node {
    let target = Entry {
        key: written.origin.clone(),
        node: Node::new(written.origin.clone(), Value::Str(name)),
    };
    let mut map = Map::from([(TARGET.to_owned(), target)]);
    if let Value::Map(arguments) = arguments.value {
        map.extend(arguments);
    }
    Node::new(arguments.origin, Value::Map(map))
}

fn at_mut<'a>(root: &'a mut Node, path: &Path) -> Option<&'a mut Node> {
    path.0.iter().try_fold(root, Node::step_mut)
}
