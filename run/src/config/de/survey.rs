//! All values of a tree that do not fit their types, not only the first.
//!
//! serde stops at the first error. So the value that caused it is taken out of a copy of the tree, and the copy
//! is read again: what is left out has its default, and the next error is one of another value.

use std::collections::BTreeSet;

use serde::de::DeserializeOwned;

use crate::config::{
    error::ConfigError,
    factory::Factories,
    node::{Node, RESERVED, Value},
    path::{Path, Segment},
    problems::Problems,
};

/// Most readings of the tree: no more problems than these are told at once.
const MAX_READINGS: usize = 20;

/// The typed value that `root` describes, in which calls are replaced by what they return.
///
/// # Errors
/// All values that do not fit their types, as far as they can be told from each other.
pub(in crate::config) fn typed<T: DeserializeOwned>(root: &Node, factories: &Factories) -> Result<T, Problems> {
    let mut error = match read::<T>(root, factories) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    let mut path = error.path.0.clone();
    let mut problems = Problems::from(error);
    let mut rest = root.clone();
    let mut removed = BTreeSet::new();
    for _ in 0..MAX_READINGS {
        let Some(place) = remove(&mut rest, &path) else { break };
        removed.insert(place);
        error = match read::<T>(&rest, factories) {
            Ok(_) => break,
            Err(error) => error,
        };
        // A field without a default is missing now because it was taken out: then its map goes too.
        if !removed.contains(&error.path.to_string()) {
            problems.push(error.clone());
        }
        path = error.path.0;
    }
    Err(problems)
}

/// Takes the value at `path` out of `root`, or the closest one above it that is there and is a field. Returns
/// the path of what was taken out; `None` where that would be all.
pub(in crate::config) fn remove(root: &mut Node, path: &[Segment]) -> Option<String> {
    let len = (1..=path.len()).rev().find(|len| is_field(root, &path[..*len]))?;
    let (last, parents) = path[..len].split_last()?;
    let map = parents.iter().try_fold(root, Node::step_mut)?;
    if let (Segment::Key(key), Value::Map(map)) = (last, &mut map.value) {
        map.shift_remove(key);
    }
    Some(Path(path[..len].to_vec()).to_string())
}

/// Whether `path` leads to a value of a map. An item of a list is not one, as a list may have to be of one
/// length; nor is what says which type a map describes.
fn is_field(root: &Node, path: &[Segment]) -> bool {
    let named = matches!(path.last(), Some(Segment::Key(key)) if !RESERVED.contains(&key.as_str()));
    named && path.iter().try_fold(root, |node, segment| node.step(segment)).is_some()
}

fn read<T: DeserializeOwned>(root: &Node, factories: &Factories) -> Result<T, ConfigError> {
    let names = |type_name: &str| factories.names(type_name).map(str::to_owned).collect();
    T::deserialize(root).map_err(|error| error.or_at(&root.origin).settled(names))
}
