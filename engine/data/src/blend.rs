//! Blends the parts of a dataset by sampling probabilities.
//!
//! An epoch has as many positions as the dataset has samples, `n`. A part of weight `w` has `n * w` of them (weights are
//! normalized, and the counts rounded to whole numbers by the largest remainders), at random places. Each part has an
//! endless stream of its own, in which every sample occurs once before any occurs again; each epoch continues it. So over
//! many epochs the samples of a part are used equally often, whatever its weight.
//!
//! The sample at a position is a function of (seed, position): a run resumes anywhere without a replay, and all ranks
//! agree. (Megatron's blended dataset has the same proportions, and keeps a table of all positions for it.)

use std::{ops::Range, sync::Arc};

use crate::{
    error::DataError,
    order::{Order, SampleOrder, permute},
    random::Random,
    sample::{Dataset, Sample},
};

/// Order of samples over parts of a dataset with sampling probabilities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlendedOrder {
    parts: Vec<Part>,
    seed: u64,
    /// Number of positions in an epoch.
    len: u64,
    shuffle: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    /// Dataset index of its first sample.
    first: u64,
    /// Number of its positions in an epoch.
    quota: u64,
    /// Number of positions of the parts before it.
    before: u64,
    order: Order,
}

/// First word of the random key of a part.
const PART: u64 = u64::from_be_bytes(*b"blending");

impl BlendedOrder {
    /// Creates the order over `parts`, ranges of dataset indices, in which part `i` has the weight `weights[i]`. The weights
    /// need not add up to 1. If `shuffle` is `false`, an epoch reads part after part, each in the order of its indices.
    ///
    /// # Errors
    /// Returns an error if the numbers of parts and weights differ, a weight is negative or not finite, all are 0, or a
    /// part with a weight above 0 is empty.
    pub fn new(parts: &[Range<u64>], weights: &[f64], seed: u64, shuffle: bool) -> Result<Self, DataError> {
        let reject = |reason: String| Err(DataError::Weights(reason));
        if parts.len() != weights.len() {
            return reject(format!(
                "{} weight(s) for {} file(s): give each file one",
                weights.len(),
                parts.len()
            ));
        }
        if let Some(weight) = weights.iter().find(|weight| !(weight.is_finite() && **weight >= 0.0)) {
            return reject(format!("{weight} is not a weight: it must be 0 or more"));
        }
        if !weights.iter().any(|weight| *weight > 0.0) {
            return reject("all are 0: at least one file needs a weight above 0".to_owned());
        }
        let empty = parts
            .iter()
            .zip(weights)
            .position(|(part, weight)| part.is_empty() && *weight > 0.0);
        if let Some(index) = empty {
            return reject(format!(
                "file {index} has the weight {}, but no sample: set the weight to 0",
                weights.get(index).unwrap_or(&0.0)
            ));
        }
        let len = parts.iter().map(|part| part.end.saturating_sub(part.start)).sum();
        Ok(Self::of(parts, weights, len, seed, shuffle))
    }

    /// Creates the order of epochs of `len` positions, over parts and weights that [`Self::new`] accepts.
    fn of(parts: &[Range<u64>], weights: &[f64], len: u64, seed: u64, shuffle: bool) -> Self {
        let mut before = 0;
        let parts = (0..).zip(parts).zip(quotas(weights, len)).map(|((number, part), quota)| {
            before += quota;
            Part {
                first: part.start,
                quota,
                before: before - quota,
                order: Order {
                    seed: Random::new(&[PART, seed, number]).bits(0),
                    len: part.end.saturating_sub(part.start),
                    shuffle,
                },
            }
        });
        Self {
            parts: parts.collect(),
            seed,
            len,
            shuffle,
        }
    }

    /// Returns the number of positions of each part in an epoch.
    #[must_use]
    pub fn quotas(&self) -> Vec<u64> {
        self.parts.iter().map(|part| part.quota).collect()
    }
}

impl SampleOrder for BlendedOrder {
    fn index(&self, position: u64) -> u64 {
        let Some(within) = position.checked_rem(self.len) else { return 0 };
        let epoch = position / self.len;
        let slot = match self.shuffle {
            true => permute(Random::new(&[self.seed, epoch]), within, self.len),
            false => within,
        };
        // The quotas add up to `len`, so that every slot has a part. A part without a quota has no slot.
        let part = self.parts.iter().rfind(|part| part.quota > 0 && part.before <= slot);
        part.map_or(0, |part| part.first + part.order.index(epoch * part.quota + (slot - part.before)))
    }

    fn epoch(&self) -> Option<u64> {
        Some(self.len)
    }
}

/// Distributes `len` positions by the weights: by whole shares, and the rest by the largest remainders (of equal ones the
/// first). A part with a weight above 0 has at least one position, as far as there are enough.
fn quotas(weights: &[f64], len: u64) -> Vec<u64> {
    let largest = weights.iter().copied().fold(0.0, f64::max);
    // Division by the largest one first: the sum of huge weights would be infinite.
    let scaled: Vec<f64> = weights.iter().map(|weight| weight / largest).collect();
    let sum: f64 = scaled.iter().sum();
    let shares: Vec<f64> = scaled.iter().map(|weight| len as f64 * (weight / sum)).collect();
    let mut quotas: Vec<u64> = shares.iter().map(|share| (share.floor() as u64).min(len)).collect();
    let mut by_remainder: Vec<usize> = (0..weights.len())
        .filter(|part| weights.get(*part).is_some_and(|weight| *weight > 0.0))
        .collect();
    let remainder = |part: &usize| shares.get(*part).map_or(0.0, |share| share - share.floor());
    by_remainder.sort_by(|a, b| remainder(b).total_cmp(&remainder(a)));
    let mut left = len.saturating_sub(quotas.iter().sum());
    for part in by_remainder.iter().cycle().take(by_remainder.len() * 2) {
        if let Some(quota) = quotas.get_mut(*part).filter(|_| left > 0) {
            *quota += 1;
            left -= 1;
        }
    }
    for part in 0..quotas.len() {
        let needs_one = quotas.get(part) == Some(&0) && weights.get(part).is_some_and(|weight| *weight > 0.0);
        let richest = (0..quotas.len()).rev().max_by_key(|other| quotas.get(*other));
        if let Some(richest) = richest.filter(|richest| needs_one && quotas.get(*richest).is_some_and(|quota| *quota > 1)) {
            quotas.iter_mut().enumerate().for_each(|(other, quota)| {
                *quota = match other {
                    _ if other == part => 1,
                    _ if other == richest => *quota - 1,
                    _ => *quota,
                };
            });
        }
    }
    quotas
}

/// A dataset that is read in a blended order.
pub struct Blended {
    dataset: Arc<dyn Dataset>,
    parts: Vec<Range<u64>>,
    weights: Vec<f64>,
    /// Number of positions in an epoch.
    len: u64,
}

impl Blended {
    /// Wraps `dataset`, whose `parts` have these weights.
    ///
    /// # Errors
    /// Returns the errors of [`BlendedOrder::new`].
    pub fn new(dataset: Arc<dyn Dataset>, parts: Vec<Range<u64>>, weights: Vec<f64>) -> Result<Self, DataError> {
        let len = BlendedOrder::new(&parts, &weights, 0, true)?.len;
        Ok(Self {
            dataset,
            parts,
            weights,
            len,
        })
    }

    /// Wraps `dataset`, of whose part `i` an epoch has `shares[i]` samples.
    ///
    /// # Errors
    /// Returns the errors of [`BlendedOrder::new`].
    pub fn with_shares(dataset: Arc<dyn Dataset>, parts: Vec<Range<u64>>, shares: Vec<f64>) -> Result<Self, DataError> {
        let len = shares.iter().sum::<f64>().round().max(1.0) as u64;
        let blended = Self::new(dataset, parts, shares)?;
        Ok(Self { len, ..blended })
    }
}

impl Dataset for Blended {
    fn len(&self) -> usize {
        self.dataset.len()
    }

    fn identity(&self) -> String {
        self.dataset.identity()
    }

    fn get(&self, index: usize) -> Result<Sample, DataError> {
        self.dataset.get(index)
    }

    fn get_without_pixels(&self, index: usize) -> Result<Sample, DataError> {
        self.dataset.get_without_pixels(index)
    }

    fn name(&self, index: usize) -> String {
        self.dataset.name(index)
    }

    fn order(&self, seed: u64, shuffle: bool) -> Arc<dyn SampleOrder> {
        // `new` has checked parts and weights.
        Arc::new(BlendedOrder::of(&self.parts, &self.weights, self.len, seed, shuffle))
    }
}
