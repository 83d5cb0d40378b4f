//! One dataset of a mixture: its samples, and the mapping of their parts.

use std::sync::Arc;

use super::{
    joined::Joined, lines::Lines, mapping::Mapping, raw_sample::RawSample, sample::EnergonSample, subset::SampleRange,
    webdataset::Webdataset,
};
use crate::error::DataError;

/// Where samples are.
#[derive(Debug)]
pub(super) enum Source {
    Shards(Webdataset),
    Lines(Lines),
    Joined(Joined),
}

/// A dataset of a mixture.
#[derive(Debug)]
pub(super) struct Leaf {
    source: Source,
    mapping: Arc<Mapping>,
    chosen: Chosen,
}

/// Samples of the source that are used.
#[derive(Debug)]
enum Chosen {
    Range(std::ops::Range<u64>),
    List(Vec<u64>),
}

impl Source {
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Shards(set) => set.len(),
            Self::Lines(lines) => lines.len(),
            Self::Joined(joined) => joined.len(),
        }
    }
}

impl Leaf {
    /// Creates the dataset of the samples in `subset`, without those that the split excludes. `None`: the subset leaves the
    /// dataset.
    pub(super) fn new(source: Source, mapping: Mapping, subset: SampleRange) -> Option<Self> {
        let range = subset.of(source.len())?;
        let excluded = match &source {
            Source::Shards(set) => set.excluded(),
            Source::Lines(_) | Source::Joined(_) => &[],
        };
        let chosen = match excluded.iter().any(|index| range.contains(index)) {
            true => Chosen::List(range.filter(|index| excluded.binary_search(index).is_err()).collect()),
            false => Chosen::Range(range),
        };
        Some(Self {
            source,
            mapping: Arc::new(mapping),
            chosen,
        })
    }

    pub(super) fn len(&self) -> u64 {
        match &self.chosen {
            Chosen::Range(range) => range.end - range.start,
            Chosen::List(list) => list.len() as u64,
        }
    }

    fn index(&self, index: u64) -> u64 {
        match &self.chosen {
            Chosen::Range(range) => range.start + index,
            Chosen::List(list) => list.get(index as usize).copied().unwrap_or(u64::MAX),
        }
    }

    pub(super) fn raw(&self, index: u64) -> Result<RawSample, DataError> {
        let index = self.index(index);
        match &self.source {
            Source::Shards(set) => set.raw(index),
            Source::Lines(lines) => lines.raw(index),
            Source::Joined(joined) => joined.raw(index),
        }
    }

    pub(super) fn sample(&self, index: u64) -> Result<EnergonSample, DataError> {
        self.mapping.map(self.raw(index)?)
    }

    pub(super) fn name(&self, index: u64) -> String {
        let index = self.index(index);
        match &self.source {
            Source::Shards(set) => set.name(index),
            Source::Lines(lines) => lines.name(index),
            Source::Joined(joined) => joined.name(index),
        }
    }

    pub(super) fn identify(&self, hasher: &mut blake3::Hasher) {
        match &self.source {
            Source::Shards(set) => set.identify(hasher),
            Source::Lines(lines) => lines.identify(hasher),
            Source::Joined(joined) => joined.identify(hasher),
        }
        self.mapping.identify(hasher);
        match &self.chosen {
            Chosen::Range(range) => hasher.update(format!("{range:?}").as_bytes()),
            Chosen::List(list) => hasher.update(bytemuck::cast_slice(list)),
        };
    }
}
