//! Training and validation split, and a subset of a dataset.

use std::sync::Arc;

use crate::{
    error::DataError,
    order::permute,
    random::Random,
    sample::{Dataset, Sample},
};

/// Training and validation samples. Both lists are sorted, and every index is in exactly one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// Dataset indices of the training samples.
    pub train: Vec<u64>,
    /// Dataset indices of the validation samples, which are never trained on.
    pub val: Vec<u64>,
}

/// First word of the split's random key: it makes the split independent of the order of epoch 0.
const SPLIT: u64 = u64::from_be_bytes(*b"valsplit");

/// Splits `len` samples into training and validation samples. The number of validation samples is `len * fraction`,
/// rounded, but at least one if `fraction > 0`, and at most `len - 1`. The choice depends on (seed, len) only, and a larger
/// fraction includes the samples of a smaller one.
///
/// # Errors
/// Returns an error if `fraction` is not between 0 and 1, or if it is above 0 and there are fewer than two samples.
pub fn split(len: u64, fraction: f64, seed: u64) -> Result<Split, DataError> {
    let reject = |reason| Err(DataError::Split { len, fraction, reason });
    if !(0.0..=1.0).contains(&fraction) {
        return reject("`val_split` must be a fraction between 0 and 1");
    }
    if fraction == 0.0 {
        return Ok(Split {
            train: (0..len).collect(),
            val: Vec::new(),
        });
    }
    if len < 2 {
        return reject("at least 2 are needed: add samples or set `val_split` to 0");
    }
    let count = ((len as f64 * fraction).round() as u64).clamp(1, len - 1);
    let random = Random::new(&[SPLIT, seed]);
    let mut val: Vec<u64> = (0..count).map(|position| permute(random, position, len)).collect();
    val.sort_unstable();
    let train = (0..len).filter(|index| val.binary_search(index).is_err()).collect();
    Ok(Split { train, val })
}

/// Selected samples of another dataset, reindexed from 0. Sample names are those of the other dataset.
#[derive(Clone)]
pub struct Subset {
    dataset: Arc<dyn Dataset>,
    indices: Vec<u64>,
}

impl Subset {
    /// Selects the samples at `indices`, in that order.
    ///
    /// # Errors
    /// Returns [`DataError::Index`] if an index is not in `dataset`.
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

    /// Returns the index of each sample in the other dataset.
    #[must_use]
    pub fn indices(&self) -> &[u64] {
        &self.indices
    }

    fn source_index(&self, index: usize) -> Result<usize, DataError> {
        let within = self.indices.get(index).map(|&index| index as usize);
        within.ok_or(DataError::Index { index, len: self.len() })
    }
}

impl Dataset for Subset {
    fn len(&self) -> usize {
        self.indices.len()
    }

    fn identity(&self) -> String {
        self.dataset.identity()
    }

    fn get(&self, index: usize) -> Result<Sample, DataError> {
        self.dataset.get(self.source_index(index)?)
    }

    fn get_without_pixels(&self, index: usize) -> Result<Sample, DataError> {
        self.dataset.get_without_pixels(self.source_index(index)?)
    }

    fn name(&self, index: usize) -> String {
        self.source_index(index)
            .map_or_else(|error| error.to_string(), |within| self.dataset.name(within))
    }
}
