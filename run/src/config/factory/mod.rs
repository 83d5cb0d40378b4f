//! Calls and factories in the place of a value, if the type allows one.
//!
//! | written where a value of type `Model` is expected | means |
//! |---|---|
//! | `vlm.LlavaModel(freeze_vision_model=true)` | `{_target_: vlm.LlavaModel, freeze_vision_model: true}` |
//! | `sized(hidden=7)`, or `sized` if it needs no arguments | the result of `Model`'s factory `sized` |
//! | `sized(text=wide(hidden=7))` | the same, with an argument that the factory `wide` of its type returns |
//! | `{_factory_: sized, hidden: 7}` | the same |
//! | `{_factory_: sized(hidden=7), layers: 9}` | the same, with the other keys merged over it |
//!
//! The expected type decides whether a text is a call: the deserializer reports a text where an enum or a struct is
//! expected, and the result of the call then replaces the text in the tree. So a text that looks like a call, or like
//! the name of a factory, stays text where text is expected.

mod language;
mod registry;
mod vision;

use serde::de::DeserializeOwned;

pub use self::registry::{Factories, NoArguments};
use super::{
    call::{self, TUPLE},
    de, empty_section,
    error::{ConfigError, ProblemKind},
    merge::merge,
    names,
    node::{CUSTOM, Entry, FACTORY, Map, Node, TARGET, Value},
    path::Path,
    problems::Problems,
};

/// Maximum number of calls in one tree. Factories may return calls, and one that returns itself would never end.
const MAX_CALLS: usize = 1000;

/// Builds the typed value that `root` describes. Every call in `root` is replaced by its result, so that `root` holds each
/// value with its origin afterwards.
///
/// # Errors
/// All values that do not fit their types, and the first call that cannot be made.
pub fn build<T: DeserializeOwned>(root: &mut Node, factories: &Factories) -> Result<T, Problems> {
    // A failed call is reported together with the other problems.
    let made = expand::<T>(root, factories);
    match (
        made,
        de::typed(root, &|type_name| factories.names(type_name).map(str::to_owned).collect()),
    ) {
        (Ok(()), typed) => typed,
        (Err(error), Err(mut problems)) => {
            problems.put_first(error);
            Err(problems)
        }
        (Err(error), Ok(_)) => Err(error.into()),
    }
}

/// Replaces the calls in `root` by their results. Values that do not fit their types and failed calls stay.
///
/// # Errors
/// The first call that cannot be made.
pub fn expand<T: DeserializeOwned>(root: &mut Node, factories: &Factories) -> Result<(), ConfigError> {
    // A copy of `root` without the skipped values, once there are any.
    let mut fitting: Option<Node> = None;
    let mut failed = None;
    let mut calls = 0;
    while let Err(error) = T::deserialize(fitting.as_ref().unwrap_or(root)) {
        if empty_section::remove_rejected(root, &error) {
            if let Some(fitting) = &mut fitting {
                de::remove(fitting, &error.path.0);
            }
            continue;
        }
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
            return Err(ConfigError::new(
                error.path,
                error.origin,
                ProblemKind::Invalid { message, help: None },
            ));
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Returns the result of the call at the path of `error`; `None` if it is not a call.
fn make_at(root: &mut Node, error: &ConfigError, factories: &Factories) -> Result<Option<Node>, ConfigError> {
    let (ProblemKind::UnresolvedName { type_name, names, .. }, Some(node)) = (&*error.problem, at_mut(root, &error.path)) else {
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

/// Returns the result of the call in `node`, or `None` if neither its type nor a factory has the name.
fn make(node: &Node, type_name: &str, names: &[String], factories: &Factories) -> Result<Option<Node>, ConfigError> {
    let mut siblings = node.as_map().cloned().unwrap_or_default();
    let factory = siblings.shift_remove(FACTORY).or_else(|| siblings.shift_remove(TARGET));
    let written = factory.as_ref().map_or(node, |entry| &entry.node);
    let Some(text) = written.as_text() else { return Ok(None) };
    if type_name == TUPLE {
        return call::tuple(text, &written.origin).map(Some);
    }
    let (name, arguments) = if call::is_call(text) {
        let call = call::call(text, &written.origin)?;
        (call.name, call.arguments)
    } else {
        (text.to_owned(), std::mem::take(&mut siblings))
    };
    let arguments = Node::new(node.origin.clone(), Value::Map(arguments));
    let known: Vec<&str> = names.iter().map(String::as_str).collect();
    let is_type = known.contains(&name.as_str()) || (name.contains("::") && known.contains(&CUSTOM));
    let python_name = names::canonical(&name, &known).filter(|_| !is_type).map(str::to_owned);
    let of_class = || names::class(&name).and_then(|class| factories.find(type_name, class));
    let mut made = match factories.find(type_name, &name).or_else(of_class) {
        Some(factory) => factory(arguments, factories)?,
        None if is_type => typed_map(name, written, arguments),
        None if python_name.is_some() => typed_map(python_name.unwrap_or(name), written, arguments),
        // `nl.Trainer(devices=2)` or Python's `dict(devices=2)` where a trainer is expected.
        None if name == "dict" && call::is_call(text) => arguments,
        None if names::names_struct(&name, type_name) => arguments,
        None => return Ok(None),
    };
    if !siblings.is_empty() {
        merge(&mut made, Node::new(node.origin.clone(), Value::Map(siblings)));
    }
    Ok(Some(made))
}

/// Returns `{_target_: name, ..arguments}`.
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
