//! Takes the parameters of adapters.

use super::super::dropout::Dropout;
use super::super::lora::{Lora, Magnitude};
use super::Build;
use crate::effects::GemmGroup;
use crate::error::Result;
use neva_layout::LinearAdapter;
use neva_schemas::DropoutPosition;

/// Dropout of a run's adapters.
#[derive(Debug, Clone, Copy)]
pub struct AdapterDropout {
    /// Probability that a value is dropped.
    pub probability: f64,
    /// Where it acts.
    pub position: DropoutPosition,
    /// Seed of the run.
    pub seed: u64,
}

impl Default for AdapterDropout {
    fn default() -> Self {
        Self {
            probability: 0.0,
            position: DropoutPosition::Pre,
            seed: 0,
        }
    }
}

impl Build<'_> {
    /// Takes the parameters of an adapter of the linear with this weight.
    pub(super) fn lora(&self, adapter: &LinearAdapter, weight: &str) -> Result<Lora> {
        let LinearAdapter {
            a, b, scale, magnitude, ..
        } = adapter;
        let group = self.region.group();
        let first = |name: &str, dim: usize| -> Result<usize> {
            let shard = self.parameters.get(name)?.spec.shard(group.rank(), group.size());
            Ok(shard.filter(|shard| shard.dim == dim).map_or(0, |shard| shard.start))
        };
        let AdapterDropout {
            probability,
            position,
            seed,
        } = self.dropout;
        let dropout = (probability > 0.0).then(|| Dropout::new(self.keys.clone(), probability, position, seed, [a, b]));
        let is_frozen = self.parameters.trainable_index(weight).is_none();
        let magnitude = magnitude.as_ref().map(|name| self.take(name)).transpose()?;
        Ok(Lora {
            a: self.take(a)?,
            a_name: a.clone(),
            b: self.take(b)?,
            scale: *scale,
            dropout,
            magnitude: magnitude.map(|lengths| Magnitude::new(lengths, is_frozen)),
            first: [first(a, 1)?, first(b, 0)?],
            meter: self.parameters.effects().meter(GemmGroup::Adapters),
        })
    }
}
