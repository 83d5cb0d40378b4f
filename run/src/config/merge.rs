//! Lays one tree over another.

use indexmap::map::Entry as Slot;

use super::node::{Entry, Map, Node, TARGET, Value};

/// Lays `over` over `base`: maps merge key by key, everything else (lists and null too) is replaced.
/// Every value keeps its origin, and a key its position in the map.
///
/// A map whose `_target_` differs from that of `base` replaces it whole: the fields of one type mean
/// nothing to another.
pub fn merge(base: &mut Node, over: Node) {
    let other_type = target_differs(base, &over);
    match (&mut base.value, over.value) {
        (Value::Map(base), Value::Map(over)) if !other_type => merge_maps(base, over),
        (base, over) => *base = over,
    }
    base.origin = over.origin;
}

fn merge_maps(base: &mut Map, over: Map) {
    for (name, Entry { key, node }) in over {
        match base.entry(name) {
            Slot::Vacant(slot) => {
                slot.insert(Entry { key, node });
            }
            Slot::Occupied(slot) => {
                let below = slot.into_mut();
                below.key = key;
                merge(&mut below.node, node);
            }
        }
    }
}

/// Whether `over` names another type than `base` does.
fn target_differs(base: &Node, over: &Node) -> bool {
    match (base.get(TARGET), over.get(TARGET)) {
        (Some(base), Some(over)) => base.as_text() != over.as_text(),
        _ => false,
    }
}
