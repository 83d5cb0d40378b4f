//! Reports all values of a tree that do not fit their types, not only the first.
//!
//! serde stops at the first error. So the value that caused it is removed from a copy of the tree, and the copy is read
//! again: a removed value has its default, and the next error concerns another value.

use std::collections::BTreeSet;

use serde::de::DeserializeOwned;

use crate::config::{
    error::ConfigError,
    node::{Node, RESERVED, Value},
    path::{Path, Segment},
    problems::Problems,
};

/// Maximum number of passes over the tree, and so of problems that are reported at once.
const MAX_PASSES: usize = 20;

/// Returns the names of a type's factories, by the type's name.
type Names<'a> = dyn Fn(&str) -> Vec<String> + 'a;

/// Reads the typed value that `root` describes; its calls were replaced by their results.
///
/// # Errors
/// All values that do not fit their types, as far as they can be distinguished.
pub(in crate::config) fn typed<T: DeserializeOwned>(root: &Node, names: &Names<'_>) -> Result<T, Problems> {
    let mut error = match read::<T>(root, names) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    let mut path = error.path.0.clone();
    let mut problems = Problems::from(error);
    let mut rest = root.clone();
    let mut removed = BTreeSet::new();
    for _ in 0..MAX_PASSES {
        let Some(place) = remove(&mut rest, &path) else { break };
        removed.insert(place);
        error = match read::<T>(&rest, names) {
            Ok(_) => break,
            Err(error) => error,
        };
        // A removed field without a default is missing now: then its map is removed too.
        if !removed.contains(&error.path.to_string()) {
            problems.push(error.clone());
        }
        path = error.path.0;
    }
    Err(problems)
}

/// Removes the value at `path` from `root`, or the closest field above it that exists. Returns the path of the removed
/// value; `None` if that would be the root.
pub(in crate::config) fn remove(root: &mut Node, path: &[Segment]) -> Option<String> {
    let len = (1..=path.len()).rev().find(|len| is_field(root, &path[..*len]))?;
    let (last, parents) = path[..len].split_last()?;
    let map = parents.iter().try_fold(root, Node::step_mut)?;
    if let (Segment::Key(key), Value::Map(map)) = (last, &mut map.value) {
        map.shift_remove(key);
    }
    Some(Path(path[..len].to_vec()).to_string())
}

/// Returns whether `path` leads to a field of a map. A list item is not one, because a list may need a fixed length; nor
/// is a key that names the type of a map.
fn is_field(root: &Node, path: &[Segment]) -> bool {
    let named = matches!(path.last(), Some(Segment::Key(key)) if !RESERVED.contains(&key.as_str()));
    named && path.iter().try_fold(root, |node, segment| node.step(segment)).is_some()
}

fn read<T: DeserializeOwned>(root: &Node, names: &Names<'_>) -> Result<T, ConfigError> {
    T::deserialize(root).map_err(|error| error.or_at(&root.origin).with_fallback(names))
}
