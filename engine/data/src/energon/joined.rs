//! Samples of several datasets, joined by their keys.

use super::{raw_sample::RawSample, webdataset::Webdataset};
use crate::error::DataError;

/// Policy for a key that a dataset of a join lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nonmatch {
    /// Loading fails.
    Error,
    /// The sample is left out.
    Skip,
    /// The sample lacks the parts of this dataset.
    Without,
}

/// One dataset of a join.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) set: Webdataset,
    pub(super) nonmatch: Nonmatch,
}

/// The samples of the first dataset, each with the samples of the same key in the others.
#[derive(Debug)]
pub(super) struct Joined {
    members: Vec<Member>,
    /// Index in the first dataset, and in each other one.
    rows: Vec<(u64, Vec<Option<u64>>)>,
}

impl Joined {
    /// Joins datasets. The order of the samples is that of the first.
    ///
    /// # Errors
    /// A shard cannot be read, or a key is missing where it must not.
    pub(super) fn new(members: Vec<Member>, missing: impl Fn(&str, &str) -> DataError) -> Result<Self, DataError> {
        let Some((first, others)) = members.split_first() else {
            return Ok(Self { members, rows: Vec::new() });
        };
        let keys = others.iter().map(|member| member.set.keys()).collect::<Result<Vec<_>, _>>()?;
        let mut own: Vec<(String, u64)> = first.set.keys()?.into_iter().collect();
        own.sort_by_key(|(_, index)| *index);
        let mut rows = Vec::with_capacity(own.len());
        'samples: for (key, index) in own {
            if first.set.excluded().binary_search(&index).is_ok() {
                continue;
            }
            let mut row = Vec::with_capacity(others.len());
            for (member, keys) in others.iter().zip(&keys) {
                let found = keys
                    .get(&key)
                    .copied()
                    .filter(|found| member.set.excluded().binary_search(found).is_err());
                match (found, member.nonmatch) {
                    (None, Nonmatch::Error) => return Err(missing(&member.name, &key)),
                    (None, Nonmatch::Skip) => continue 'samples,
                    (found, _) => row.push(found),
                }
            }
            rows.push((index, row));
        }
        Ok(Self { members, rows })
    }

    pub(super) fn len(&self) -> u64 {
        self.rows.len() as u64
    }

    pub(super) fn raw(&self, index: u64) -> Result<RawSample, DataError> {
        let row = self.rows.get(index as usize);
        let (Some((own, others)), Some((first, members))) = (row, self.members.split_first()) else {
            return Err(DataError::Index {
                index: index as usize,
                len: self.rows.len(),
            });
        };
        let mut found = Vec::new();
        for (member, index) in members.iter().zip(others) {
            if let Some(index) = index {
                found.push((member.name.as_str(), member.set.raw(*index)?));
            }
        }
        Ok(RawSample::joined(&first.name, first.set.raw(*own)?, found))
    }

    pub(super) fn name(&self, index: u64) -> String {
        match (self.rows.get(index as usize), self.members.first()) {
            (Some((own, _)), Some(first)) => first.set.name(*own),
            _ => format!("there is no sample {index}"),
        }
    }

    pub(super) fn identify(&self, hasher: &mut blake3::Hasher) {
        for member in &self.members {
            hasher.update(member.name.as_bytes());
            member.set.identify(hasher);
        }
        for (own, others) in &self.rows {
            hasher.update(&own.to_le_bytes());
            for other in others {
                hasher.update(&other.map_or(u64::MAX, |other| other).to_le_bytes());
            }
        }
    }
}
