//! Revisions of a value.

use std::collections::BTreeMap;

use super::origin::Origin;

/// One revision of a value, with its origin.
#[derive(Debug, Clone)]
pub struct Revision {
    /// The value on one line, as YAML; `None` if it was deleted.
    pub value: Option<String>,
    /// Where it was written, or deleted.
    pub origin: Origin,
}

/// History of a node.
#[derive(Debug, Clone, Default)]
pub(super) struct NodeHistory {
    /// Earlier revisions of this value, oldest first.
    pub(super) revisions: Vec<Revision>,
    /// All revisions of the keys that were deleted from this map.
    pub(super) deleted: BTreeMap<String, Vec<Revision>>,
    /// True for the result of a reference: text that looks like a reference is not followed.
    pub(super) followed: bool,
}
