//! Samples that are set aside for validation, and a dataset of some samples of another.

use std::sync::Arc;

use crate::{
    error::DataError,
    order::permute,
    random::Random,
    sample::{Dataset, Sample},
};

/// Samples cut in two. Both lists ascend, and together they hold every index once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// Dataset indices to train on.
    pub train: Vec<u64>,
    /// Dataset indices to validate on, never trained on.
    pub val: Vec<u64>,
}

/// First word of the split's random key, so that the samples set aside are not those that epoch 0 would begin with.
const SPLIT: u64 = u64::from_be_bytes(*b"valsplit");

/// Sets `part` of `len` samples aside: `len * part`, rounded, but at least one where `part > 0`, and one is left to train
/// on. Which ones depends on (seed, len) only, and a larger part holds a smaller one.
///
/// # Errors
/// When `part` is not between 0 and 1, or is above 0 and there are fewer than two samples.
pub fn split(len: u64, part: f64, seed: u64) -> Result<Split, DataError> {
    let refuse = |reason| Err(DataError::Split { len, part, reason });
    if !(0.0..=1.0).contains(&part) {
        return refuse("`val_split` is a part, between 0 and 1");
    }
    if part == 0.0 {
        return Ok(Split {
            train: (0..len).collect(),
            val: Vec::new(),
        });
    }
    if len < 2 {
        return refuse("at least 2 are needed, add samples or set `val_split` to 0");
    }
    let count = ((len as f64 * part).round() as u64).clamp(1, len - 1);
    let random = Random::of(&[SPLIT, seed]);
    let mut val: Vec<u64> = (0..count).map(|position| permute(random, position, len)).collect();
    val.sort_unstable();
    let train = (0..len).filter(|index| val.binary_search(index).is_err()).collect();
    Ok(Split { train, val })
}

/// Some samples of another dataset, under the numbers 0, 1, 2 ..; names are the other's.
#[derive(Clone)]
pub struct Subset {
    dataset: Arc<dyn Dataset>,
    indices: Vec<u64>,
}

impl Subset {
    /// The samples at `indices`, in that order.
    ///
    /// # Errors
    /// When an index is beyond `dataset`.
    pub fn new(dataset: Arc<dyn Dataset>, indices: Vec<u64>) -> Result<Self, DataError> {
        let len = dataset.len();
        match indices.iter().find(|&&index| index >= len as u64) {
            Some(&index) => Err(DataError::Index {
                index: index as usize,
                len,
            }),
            None => Ok(Self { dataset, indices }),
        }
    }

    /// What the samples' numbers are in the other dataset.
    #[must_use]
    pub fn indices(&self) -> &[u64] {
        &self.indices
    }

    fn at(&self, index: usize) -> Result<usize, DataError> {
        let within = self.indices.get(index).map(|&index| index as usize);
        within.ok_or(DataError::Index { index, len: self.len() })
    }
}

impl Dataset for Subset {
    fn len(&self) -> usize {
        self.indices.len()
    }

    fn get(&self, index: usize) -> Result<Sample, DataError> {
        self.dataset.get(self.at(index)?)
    }

    fn get_without_pixels(&self, index: usize) -> Result<Sample, DataError> {
        self.dataset.get_without_pixels(self.at(index)?)
    }

    fn name(&self, index: usize) -> String {
        self.at(index)
            .map_or_else(|error| error.to_string(), |within| self.dataset.name(within))
    }
}
