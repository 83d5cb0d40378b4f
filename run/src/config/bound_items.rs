//! Passes a partly bound description from the tree's deserializer to [`Bound`](super::Bound).

use serde::de::{DeserializeSeed, SeqAccess, value::StringDeserializer};

use super::{
    emit::to_yaml_string,
    error::{ConfigError, ProblemKind},
    node::{Node, PARTIAL, Value},
};

/// The newtype name by which the deserializer recognises a [`Bound`](super::Bound).
pub(super) const BOUND: &str = "_bound_";

/// Items of a `Bound`: the YAML of the node, then its check.
pub(super) struct BoundItems<'de> {
    node: &'de Node,
    read: usize,
}

impl<'de> BoundItems<'de> {
    pub(super) fn new(node: &'de Node) -> Self {
        Self { node, read: 0 }
    }
}

impl<'de> SeqAccess<'de> for BoundItems<'de> {
    type Error = ConfigError;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, ConfigError> {
        self.read += 1;
        if self.read == 1 {
            let mut known = self.node.clone();
            if let Value::Map(map) = &mut known.value {
                map.shift_remove(PARTIAL);
            }
            return seed.deserialize(StringDeserializer::new(to_yaml_string(&known))).map(Some);
        }
        match seed.deserialize(self.node) {
            Err(error) if is_missing(&error) => Ok(None),
            read => read.map(Some),
        }
    }
}

/// Returns whether the error is only a missing argument.
pub(super) fn is_missing(error: &ConfigError) -> bool {
    matches!(*error.problem, ProblemKind::MissingField)
}
