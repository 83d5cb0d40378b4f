//! Scaling state of the FP8 linears of a rank, and its update after each step.
//!
//! Transformer Engine updates the scales of delayed scaling when the outermost `fp8_autocast` ends and once more in the
//! backward pass (`pytorch/fp8.py`, `reduce_and_update_fp8_tensors`): after each microbatch. Here all scales are constant
//! during a step and updated at its end, from the largest magnitudes of all of its microbatches on all ranks. With one
//! microbatch a step the two are equal. Otherwise Transformer Engine's result depends on the number of data-parallel ranks
//! that divide the microbatches; this one depends on the global batch alone.

use super::format::{Format, Role};
use super::gemm::Gemm;
use super::linear::Fp8Linear;
use super::quantizer::{Phase, Quantizer, Scaling};
use super::recipe;
use crate::comm::{Axis, Mesh, ProcessGroup, Reduce};
use crate::error::{EngineError, Result};
use indexmap::IndexSet;
use neva_layout::Cut;
use neva_schemas::{Fp8, Fp8Recipe};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tch::{Device, Kind, Tensor};

/// Scaling state of all FP8 linears of a rank. Ranks that hold the same layers have the same state.
#[derive(Debug)]
pub struct ScalingStates {
    settings: Fp8,
    gemm: Gemm,
    /// Names of the linears.
    linears: IndexSet<String>,
    phase: Arc<Phase>,
    /// With delayed scaling.
    delayed: Option<Delayed>,
}

/// State of delayed scaling, in fp32; the second dim is that of [`Role::ALL`].
#[derive(Debug)]
struct Delayed {
    /// Scales of this step `[linears, 3]`.
    scale: Tensor,
    /// Largest magnitudes in this step so far `[linears, 3]`.
    amax: Tensor,
    /// Those of earlier steps, the last one first `[linears, 3, len]`.
    history: Tensor,
    /// Amaxes of this rank's shards of the weights when they were last gathered in FP8 `[linears]`.
    gathered: Tensor,
    /// Largest values of the formats `[3]`.
    largest: Tensor,
}

/// Source of the scale of a weight.
#[derive(Debug)]
pub enum WeightScale {
    /// The scale of delayed scaling.
    Delayed {
        /// The scale, a scalar, which changes after each step.
        scale: Tensor,
        /// Receives the amax of the rank's shard before a gather in FP8, a scalar.
        amax: Tensor,
    },
    /// The weight's own amax.
    Current,
}

/// Scaling state of one linear, for checkpoints: input, weight and gradient of the output.
#[derive(Debug)]
pub struct LinearState<'a> {
    /// Name of the linear.
    pub linear: &'a str,
    /// Scales `[3]`.
    pub scale: Tensor,
    /// Largest magnitudes in earlier steps, the last one first `[3, len]`.
    pub amax_history: Tensor,
}

impl ScalingStates {
    /// Creates the first state of the linears of these names: all scales are 1, as in Transformer Engine.
    ///
    /// # Errors
    /// The device does not compute FP8, and the run does not ask for emulation; or libtorch refused.
    pub fn new(settings: Fp8, linears: impl IntoIterator<Item = String>, device: Device) -> Result<Self> {
        let linears: IndexSet<_> = linears.into_iter().collect();
        let (count, options) = (linears.len() as i64, (Kind::Float, device));
        let largest = Role::ALL.map(|role| Format::of(settings.format, role).max() as f32);
        let delayed = || -> Result<Delayed> {
            Ok(Delayed {
                scale: Tensor::f_ones([count, 3], options)?,
                amax: Tensor::f_zeros([count, 3], options)?,
                gathered: Tensor::f_zeros([count], options)?,
                history: Tensor::f_zeros([count, 3, i64::from(settings.amax_history_len)], options)?,
                largest: Tensor::f_from_slice(&largest)?.f_to_device(device)?,
            })
        };
        Ok(Self {
            settings,
            gemm: Gemm::choose(&settings, device)?,
            linears,
            phase: Arc::default(),
            delayed: (settings.recipe == Fp8Recipe::Delayed).then(delayed).transpose()?,
        })
    }

    /// Returns the GEMMs of the linear of that name, if it is computed in FP8. `cut` is that of its weight over the ranks of
    /// `group`.
    ///
    /// # Errors
    /// libtorch refused.
    pub fn linear(&self, name: &str, cut: Cut, group: &Arc<dyn ProcessGroup>) -> Result<Option<Fp8Linear>> {
        let Some(index) = self.linears.get_index_of(name) else {
            return Ok(None);
        };
        let quantizer = |role: Role| -> Result<Quantizer> {
            // The ranks of a column-parallel linear hold shards of its output, those of a row-parallel one of its input.
            let is_shard = match (cut, role) {
                (Cut::Replicate, _) | (Cut::Row, Role::Gradient) | (Cut::Column | Cut::Vocab, Role::Input) => false,
                (Cut::Row | Cut::Column | Cut::Vocab, _) => group.size() > 1,
            };
            let of_linear = |all: &Tensor| all.f_select(0, index as i64)?.f_select(0, role as i64);
            Ok(Quantizer {
                format: Format::of(self.settings.format, role),
                scaling: match (&self.delayed, recipe::blocks(self.settings.recipe, role)) {
                    (Some(delayed), _) => Scaling::Delayed {
                        role,
                        scale: of_linear(&delayed.scale)?,
                        amax: of_linear(&delayed.amax)?,
                        phase: self.phase.clone(),
                    },
                    (None, Some(blocks)) => Scaling::Tiles(blocks),
                    (None, None) => Scaling::Current {
                        shards: is_shard.then(|| group.clone()),
                    },
                },
            })
        };
        Ok(Some(Fp8Linear {
            input: quantizer(Role::Input)?,
            weight: quantizer(Role::Weight)?,
            gradient: quantizer(Role::Gradient)?,
            wgrad: self.settings.wgrad,
            gemm: self.gemm,
            phase: self.phase.clone(),
            cache: Arc::default(),
        }))
    }

    /// Returns the scale of a linear's weight in the next passes; `None` if the weight has no single one.
    pub fn weight_scale(&self, linear: &str) -> Option<WeightScale> {
        let index = self.linears.get_index_of(linear)? as i64;
        match (&self.delayed, self.settings.recipe) {
            (Some(delayed), _) => Some(WeightScale::Delayed {
                scale: delayed.scale.select(0, index).select(0, Role::Weight as i64),
                amax: delayed.gathered.select(0, index),
            }),
            (None, Fp8Recipe::Tensorwise) => Some(WeightScale::Current),
            (None, _) => None,
        }
    }

    /// Notes that weights were gathered in FP8, and that their amaxes are those of [`WeightScale::Delayed`].
    pub fn note_gathered(&self) {
        self.phase.gathered.store(true, Ordering::Release);
    }

    /// Returns the format of weights.
    pub fn weight_format(&self) -> Format {
        Format::of(self.settings.format, Role::Weight)
    }

    /// Marks the start of the passes of a training step: amaxes count from now on.
    ///
    /// # Errors
    /// libtorch refused.
    pub fn begin_passes(&self) -> Result<()> {
        if let Some(delayed) = &self.delayed {
            let _ = delayed.amax.shallow_clone().f_zero_()?;
            if self.phase.gathered.load(Ordering::Acquire) {
                delayed.amax.f_select(1, Role::Weight as i64)?.f_copy_(&delayed.gathered)?;
            }
        }
        // A validation may have quantised the weights, without counting their amaxes.
        self.phase.version.fetch_add(1, Ordering::AcqRel);
        self.phase.recording.store(true, Ordering::Release);
        Ok(())
    }

    /// Marks the end of the passes of a training step. Other passes, as those of a validation, count no amax.
    pub fn end_passes(&self) {
        self.phase.recording.store(false, Ordering::Release);
    }

    /// Updates histories and scales at the end of step `step`, from the amaxes of all ranks that hold the same layers. A skipped
    /// step counts, too. Every rank calls it; the collectives run with delayed scaling only.
    ///
    /// # Errors
    /// A collective failed.
    pub fn finish_step(&self, mesh: &Mesh, step: u64) -> Result<()> {
        // The optimizer's step follows.
        self.phase.version.fetch_add(1, Ordering::AcqRel);
        let Some(delayed) = self.delayed.as_ref().filter(|_| !self.linears.is_empty()) else {
            return Ok(());
        };
        mesh.dp_cp_group().all_reduce(&delayed.amax, Reduce::Max)?;
        mesh.axis(Axis::Tensor).all_reduce(&delayed.amax, Reduce::Max)?;
        let history = recipe::push(&delayed.history, &delayed.amax)?;
        if (step + 1).is_multiple_of(self.settings.interval) {
            let scale = recipe::delayed(&history, &delayed.scale, &delayed.largest, &self.settings)?;
            delayed.scale.shallow_clone().f_copy_(&scale)?;
        }
        delayed.history.shallow_clone().f_copy_(&history)?;
        Ok(())
    }

    /// Returns the settings.
    pub fn settings(&self) -> &Fp8 {
        &self.settings
    }

    /// Returns the implementation of the GEMMs.
    pub fn gemm(&self) -> Gemm {
        self.gemm
    }

    /// Returns the names of the linears.
    pub fn linears(&self) -> impl Iterator<Item = &str> {
        self.linears.iter().map(String::as_str)
    }

    /// Returns the state of each linear with delayed scaling; other recipes have none. The tensors share its memory.
    pub fn states(&self) -> impl Iterator<Item = LinearState<'_>> {
        let delayed = self.delayed.iter();
        delayed.flat_map(|delayed| {
            self.linears.iter().zip(0..).map(move |(linear, index)| LinearState {
                linear,
                scale: delayed.scale.select(0, index),
                amax_history: delayed.history.select(0, index),
            })
        })
    }

    /// Sets the state of a linear to that of a checkpoint. A longer history is truncated, a shorter one is continued with zeros,
    /// as in Transformer Engine.
    ///
    /// # Errors
    /// The shapes are wrong.
    pub fn restore(&self, linear: &str, scale: &Tensor, amax_history: &Tensor) -> Result<()> {
        let wrong = || EngineError::Bug(format!("no FP8 state of these shapes belongs to `{linear}`"));
        let state = self.states().find(|state| state.linear == linear).ok_or_else(wrong)?;
        let (own, theirs) = (state.amax_history.size(), amax_history.size());
        if scale.size() != [3] || theirs.len() != 2 || theirs[0] != 3 {
            return Err(wrong());
        }
        state.scale.shallow_clone().f_copy_(scale)?;
        let len = own[1].min(theirs[1]);
        let _ = state.amax_history.shallow_clone().f_zero_()?;
        state
            .amax_history
            .f_narrow(1, 0, len)?
            .f_copy_(&amax_history.f_narrow(1, 0, len)?)?;
        self.phase.version.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }
}
