//! Datasets of a metadataset, with the number of samples that each gives to an epoch.
//!
//! | Energon | an epoch has |
//! |---|---|
//! | `concat`, one dataset | every sample once |
//! | `blend_epochized` | the samples of a dataset `repetitions` times |
//! | `blend` | as many samples as the datasets together, in proportion to the weights |
//!
//! Energon's `blend` has no epoch: it draws without end. Here each dataset of a blend continues its own stream from epoch to
//! epoch, so that its samples are used equally often.

use super::leaf::Leaf;

/// Datasets with their samples per epoch.
#[derive(Debug, Default)]
pub(super) struct Mixture {
    pub(super) leaves: Vec<(Leaf, f64)>,
}

impl Mixture {
    pub(super) fn one(leaf: Leaf) -> Self {
        let len = leaf.len() as f64;
        Self { leaves: vec![(leaf, len)] }
    }

    /// Returns the number of samples of an epoch.
    pub(super) fn size(&self) -> f64 {
        self.leaves.iter().map(|(_, share)| share).sum()
    }

    /// Multiplies the samples of an epoch.
    pub(super) fn repeated(mut self, repetitions: f64) -> Self {
        self.leaves.iter_mut().for_each(|(_, share)| *share *= repetitions);
        self
    }

    /// Concatenates mixtures.
    pub(super) fn concat(parts: Vec<Self>) -> Self {
        Self {
            leaves: parts.into_iter().flat_map(|part| part.leaves).collect(),
        }
    }

    /// Blends mixtures by weights, of which one is above 0.
    pub(super) fn blend(parts: Vec<(Self, f64)>) -> Self {
        let used = parts.iter().filter(|(_, weight)| *weight > 0.0);
        let total: f64 = used.map(|(part, _)| part.size()).sum();
        let largest = parts.iter().map(|(_, weight)| *weight).fold(0.0, f64::max);
        let weights: f64 = parts.iter().map(|(_, weight)| weight / largest).sum();
        let parts = parts.into_iter().map(|(part, weight)| {
            let size = part.size();
            match size > 0.0 {
                true => part.repeated(total * (weight / largest / weights) / size),
                false => part,
            }
        });
        Self::concat(parts.collect())
    }
}
