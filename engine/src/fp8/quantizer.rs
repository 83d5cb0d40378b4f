//! Quantisation of one tensor of a linear, by the recipe of the run.

use super::format::{Format, Role};
use super::recipe;
use super::tensor::{Float8Tensor, Wanted};
use crate::comm::{ProcessGroup, Reduce};
use crate::error::Result;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tch::Tensor;

/// Phase of the training loop, which all linears of a rank share.
#[derive(Debug, Default)]
pub(super) struct Phase {
    /// True during the passes of a training step, whose amaxes count.
    pub(super) recording: AtomicBool,
    /// True once weights were gathered in FP8: their amaxes are noted before that, when they still have all bits.
    pub(super) gathered: AtomicBool,
    /// Changes when weights or scales may have changed.
    pub(super) version: AtomicU64,
}

impl Phase {
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Returns whether the amax of a tensor that is quantised now counts.
    fn counts(&self, role: Role) -> bool {
        let noted = role == Role::Weight && self.gathered.load(Ordering::Acquire);
        self.recording.load(Ordering::Acquire) && !noted
    }
}

/// Source of a tensor's scales.
#[derive(Debug)]
pub(super) enum Scaling {
    /// The amaxes of earlier steps.
    Delayed {
        /// Role of the tensor.
        role: Role,
        /// Scale of this step, a scalar.
        scale: Tensor,
        /// Largest magnitude in this step so far, a scalar.
        amax: Tensor,
        phase: Arc<Phase>,
    },
    /// The tensor's own amax, over the ranks that hold its shards.
    Current { shards: Option<Arc<dyn ProcessGroup>> },
    /// The amaxes of its tiles.
    Tiles([i64; 2]),
}

impl Scaling {
    fn shallow_clone(&self) -> Self {
        match self {
            Self::Delayed { role, scale, amax, phase } => Self::Delayed {
                role: *role,
                scale: scale.shallow_clone(),
                amax: amax.shallow_clone(),
                phase: phase.clone(),
            },
            Self::Current { shards } => Self::Current { shards: shards.clone() },
            Self::Tiles(tile) => Self::Tiles(*tile),
        }
    }
}

/// Quantises one tensor of a linear: its input, its weight, or the gradient of its output.
#[derive(Debug)]
pub(super) struct Quantizer {
    pub(super) format: Format,
    pub(super) scaling: Scaling,
}

impl Quantizer {
    /// Quantises a matrix. With delayed scaling, its amax counts in the history if a training step is in progress. Repeating
    /// that, as a recomputation does, changes nothing.
    /// `transposed`: [`Self::transposed`] follows.
    pub(super) fn quantize(&self, x: &Tensor, transposed: bool) -> Result<Float8Tensor> {
        match &self.scaling {
            Scaling::Delayed { role, scale, amax, phase } => {
                let amax = phase.counts(*role).then_some(amax);
                Float8Tensor::quantize_with(x, scale, self.format, Wanted { transposed, amax })
            }
            Scaling::Current { shards } => {
                let amax = recipe::amax(x)?;
                if let Some(group) = shards {
                    group.all_reduce(&amax, Reduce::Max)?;
                }
                let scale = recipe::current(&amax, self.format.max(), false)?;
                Float8Tensor::quantize_with(x, &scale, self.format, Wanted { transposed, amax: None })
            }
            Scaling::Tiles(tile) => Float8Tensor::quantize_tiles_with(x, *tile, self.format, transposed),
        }
    }

    /// Quantises a matrix that is multiplied as it is and transposed: both are kept if their blocks differ.
    pub(super) fn quantize_both(&self, x: &Tensor) -> Result<Float8Tensor> {
        let quantized = self.quantize(x, true)?;
        if !self.transposes_values() || quantized.has_transposed() {
            return Ok(quantized);
        }
        let transposed = self.transposed(x, &quantized)?;
        Ok(quantized.with_transposed(transposed))
    }

    /// Returns the transposed matrix of `x`, whose quantised form is `quantized`. With blocks of one row its values are
    /// quantised again: the blocks of the transposed matrix are others.
    pub(super) fn transposed(&self, x: &Tensor, quantized: &Float8Tensor) -> Result<Float8Tensor> {
        match &self.scaling {
            Scaling::Tiles([1, _]) if !quantized.has_transposed() => self.quantize(&x.f_transpose(0, 1)?, false),
            _ => quantized.transposed(),
        }
    }

    /// Returns true if [`Self::transposed`] needs the values before quantisation.
    pub(super) fn transposes_values(&self) -> bool {
        matches!(self.scaling, Scaling::Tiles([1, _]))
    }

    pub(super) fn shallow_clone(&self) -> Self {
        Self {
            format: self.format,
            scaling: self.scaling.shallow_clone(),
        }
    }
}
