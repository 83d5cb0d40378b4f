//! Dropout of adapters. A mask is a function of (seed, adapter, place of the sample in the stream, position, channel), so it
//! is the same in every layout, in a recomputation and after a resume. libtorch's generator is not used.

mod kept;

use super::outputs::OutputPositions;
use crate::error::{EngineError, Result};
use crate::random::{hash, mix};
use crate::sample_keys::SampleKeys;
use kept::keep;
use neva_schemas::DropoutPosition;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tch::Tensor;

/// Keys of the microbatch that a model currently computes, shared by all its adapters. Without keys there is no dropout: in a
/// validation and in generation.
#[derive(Debug, Clone, Default)]
pub struct CurrentKeys(Arc<Mutex<Option<Keys>>>);

/// Keys of a microbatch, or within the vision encoder those of its images.
#[derive(Debug, Clone)]
pub struct Keys {
    samples: Arc<SampleKeys>,
    /// Images that this rank encodes, within the vision encoder and the projector.
    images: Option<Arc<[u64]>>,
    /// Places of the positions whose last hidden states are read; `None` for all positions.
    outputs: Option<Arc<[usize]>>,
}

impl CurrentKeys {
    fn lock(&self) -> MutexGuard<'_, Option<Keys>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the current keys, for [`Self::with`] in a recomputation.
    pub fn get(&self) -> Option<Keys> {
        self.lock().clone()
    }

    /// Runs `run` with these keys.
    pub fn with<T>(&self, keys: Option<Keys>, run: impl FnOnce() -> T) -> T {
        let before = std::mem::replace(&mut *self.lock(), keys);
        let result = run();
        *self.lock() = before;
        result
    }

    /// Runs `run` with the keys of a microbatch, whose last hidden states are read at `outputs`.
    pub fn of_samples<T>(&self, samples: Option<&Arc<SampleKeys>>, outputs: &OutputPositions, run: impl FnOnce() -> T) -> T {
        let keys = samples.map(|samples| Keys {
            samples: samples.clone(),
            images: None,
            outputs: outputs.places().map(Into::into),
        });
        self.with(keys, run)
    }

    /// Runs `run`, which encodes the images of these indices.
    pub(super) fn of_images<T>(&self, indices: &[i64], run: impl FnOnce() -> T) -> T {
        let keys = self.get().map(|keys| {
            let own = indices.iter().filter_map(|index| keys.samples.images.get(*index as usize).copied());
            Keys {
                images: Some(own.collect()),
                ..keys
            }
        });
        self.with(keys, run)
    }
}

/// The part of each sequence that an input of dropout has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) rank: usize,
    pub(super) ranks: usize,
}

impl Part {
    /// Whole sequences.
    pub(super) const WHOLE: Self = Self { rank: 0, ranks: 1 };
}

/// Dropout of one adapter.
#[derive(Debug, Clone)]
pub struct Dropout {
    keys: CurrentKeys,
    probability: f64,
    position: DropoutPosition,
    /// Key of the adapter's input, which the linears of a fused module share, or of its output.
    key: u64,
}

impl Dropout {
    /// Returns dropout whose masks depend on `name`: that of A for dropout on the input, that of B on the output.
    pub(super) fn new(keys: CurrentKeys, probability: f64, position: DropoutPosition, seed: u64, [a, b]: [&str; 2]) -> Self {
        let name = match position {
            DropoutPosition::Pre => a,
            DropoutPosition::Post => b,
        };
        Self {
            keys,
            probability,
            position,
            key: mix(seed ^ hash(name)),
        }
    }

    /// Returns whether anything is dropped: not in a validation or in generation.
    pub(super) fn acts(&self) -> bool {
        self.keys.get().is_some()
    }

    /// Returns the mask for the input `x` of the adapter, and the factor of the values that are kept; `None` if nothing is
    /// dropped there. The last dim of `x` begins with the channel `first`.
    pub(super) fn before(&self, x: &Tensor, part: Part, first: usize) -> Result<Option<Mask>> {
        self.mask(DropoutPosition::Pre, x, part, first)
    }

    /// Returns the mask for the output of the adapter.
    pub(super) fn after(&self, y: &Tensor, part: Part, first: usize) -> Result<Option<Mask>> {
        self.mask(DropoutPosition::Post, y, part, first)
    }

    fn mask(&self, position: DropoutPosition, x: &Tensor, part: Part, first: usize) -> Result<Option<Mask>> {
        let Some(keys) = self.keys.get().filter(|_| self.position == position) else {
            return Ok(None);
        };
        let size = x.size();
        let channels = size.last().copied().unwrap_or(1) as usize;
        let rows = keys.rows(x.numel() / channels.max(1), size.first().copied().unwrap_or(1) as usize, part)?;
        let rows: Vec<_> = rows.into_iter().map(|row| (mix(row ^ self.key) >> 32) as u32).collect();
        // A value is kept if its 32 bits, as a signed number, are at least the threshold.
        let threshold = (self.probability * f64::from(u32::MAX)).round() as i64 + i64::from(i32::MIN);
        let kept = keep(&rows, first, channels, threshold as i32, x.device());
        Ok(Some(Mask {
            kept: kept.f_view(size.as_slice())?,
            factor: 1.0 / (1.0 - self.probability),
        }))
    }
}

impl Keys {
    /// Returns a key for each of `rows` rows of an input whose first dim is `first`: positions, or positions of images.
    fn rows(&self, rows: usize, first: usize, part: Part) -> Result<Vec<u64>> {
        let wrong = |keys: usize| EngineError::Bug(format!("dropout on {rows} rows of a microbatch with keys for {keys}"));
        if let Some(images) = &self.images {
            if images.len() != first || !rows.is_multiple_of(first.max(1)) {
                return Err(wrong(images.len()));
            }
            let each = (rows / first.max(1)) as u64;
            return Ok(images
                .iter()
                .flat_map(|image| (0..each).map(move |position| mix(image.wrapping_add(position))))
                .collect());
        }
        let positions = &self.samples.positions;
        // With as many outputs as positions, either way is the same.
        if let Some(outputs) = self.outputs.as_ref().filter(|outputs| outputs.len() == rows) {
            return Ok(outputs.iter().filter_map(|place| positions.get(*place).copied()).collect());
        }
        if positions.len() != rows * part.ranks || !rows.is_multiple_of(first.max(1)) {
            return Err(wrong(positions.len()));
        }
        let each = rows / first.max(1);
        let shards = positions.chunks(each.max(1)).skip(part.rank).step_by(part.ranks);
        Ok(shards.flatten().copied().collect())
    }
}

/// Which values are kept, as booleans, and the factor that keeps their mean.
#[derive(Debug)]
pub(super) struct Mask {
    kept: Tensor,
    pub(super) factor: f64,
}

impl Mask {
    /// Returns `x` with zeros in place of the dropped values; the others are not scaled yet.
    pub(super) fn apply(&self, x: &Tensor) -> Tensor {
        x * &self.kept
    }
}
