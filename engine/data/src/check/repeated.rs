//! Records and ids that occur more than once.

use std::collections::{BTreeMap, btree_map::Entry};

use super::probe::Source;

/// Place of a record: index of its file, and its index in the file.
type Place = (u32, u32);

/// First places of contents and ids: about 40 bytes for each record.
#[derive(Debug, Default)]
pub(super) struct Repeated {
    contents: BTreeMap<u64, Place>,
    ids: BTreeMap<(u32, u64), u32>,
}

impl Repeated {
    /// Returns the first record with this content, or remembers this one.
    pub(super) fn content(&mut self, hash: u64, file: usize, record: usize) -> Option<(usize, usize)> {
        match self.contents.entry(hash) {
            Entry::Occupied(first) => Some((first.get().0 as usize, first.get().1 as usize)),
            Entry::Vacant(place) => {
                place.insert((narrow(file), narrow(record)));
                None
            }
        }
    }

    /// Returns the first record of the file with this id, or remembers this one.
    pub(super) fn id(&mut self, hash: u64, file: usize, record: usize) -> Option<usize> {
        match self.ids.entry((narrow(file), hash)) {
            Entry::Occupied(first) => Some(*first.get() as usize),
            Entry::Vacant(place) => {
                place.insert(narrow(record));
                None
            }
        }
    }
}

fn narrow(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

/// Names a record in a description of another record of the file `here`.
pub(super) fn place(sources: &[Source], here: usize, (file, record): (usize, usize)) -> String {
    match sources.get(file) {
        Some(source) if file != here => format!("record {record} of {}", source.name),
        _ => format!("record {record}"),
    }
}
