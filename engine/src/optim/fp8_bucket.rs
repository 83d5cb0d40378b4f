//! A bucket of weights that the distributed optimizer gathers in FP8: half the bytes of bf16.
//!
//! A weight in FP8 is used by the GEMMs of its linear alone, which quantise it with the same scale. So the values that they
//! compute with do not change: quantising a quantised value again gives the same bits.

use crate::comm::{Axis, Mesh, Reduce};
use crate::error::{EngineError, Result};
use crate::fp8::{Float8Tensor, Format, ScalingStates, WeightScale, recipe};
use crate::parameters::Parameter;
use neva_layout::Member;
use std::ops::Range;
use tch::{Kind, Tensor, no_grad};

/// A bucket of weights, and their bytes in FP8.
#[derive(Debug)]
pub(super) struct Fp8Bucket {
    /// The weights `[ranks, shard]`.
    values: Tensor,
    /// Their FP8 values `[ranks, shard]`, as bytes: process groups know no FP8.
    bytes: Tensor,
    members: Vec<Range<i64>>,
    /// Delayed scales of the members, and where their amaxes go; `None` if the scales follow from the weights.
    delayed: Option<Vec<[Tensor; 2]>>,
    /// Scales of the last quantisation `[members]`.
    scales: Tensor,
    format: Format,
    mesh: Mesh,
}

impl Fp8Bucket {
    /// Creates the bucket of `members` in `values` `[ranks, shard]`.
    ///
    /// # Errors
    /// A weight has no scale.
    pub(super) fn new<'a>(
        values: &Tensor,
        members: impl Iterator<Item = (Member, &'a Parameter)>,
        scaling: &ScalingStates,
        mesh: &Mesh,
    ) -> Result<Self> {
        let (mut ranges, mut delayed) = (Vec::new(), Vec::new());
        for (member, parameter) in members {
            let linear = parameter.spec.lora.as_ref().map(|module| module.linear.as_str());
            let scale = linear.and_then(|linear| scaling.weight_scale(linear));
            match scale.ok_or_else(|| EngineError::Bug(format!("`{}` has no FP8 scale", parameter.spec.name)))? {
                WeightScale::Delayed { scale, amax } => delayed.push([scale, amax]),
                WeightScale::Current => {}
            }
            ranges.push(member.start as i64..(member.start + member.numel) as i64);
        }
        Ok(Self {
            values: values.shallow_clone(),
            bytes: Tensor::f_zeros(values.size().as_slice(), (Kind::Uint8, values.device()))?,
            scales: Tensor::f_ones([ranges.len() as i64], (Kind::Float, values.device()))?,
            delayed: (delayed.len() == ranges.len()).then_some(delayed),
            members: ranges,
            format: scaling.weight_format(),
            mesh: mesh.clone(),
        })
    }

    /// Returns the bytes `[ranks, shard]`.
    pub(super) fn bytes(&self) -> &Tensor {
        &self.bytes
    }

    /// Quantises this rank's shard. Returns the bucket with the scales that it used. Every rank calls it.
    ///
    /// # Errors
    /// A collective failed.
    pub(super) fn quantized(&self) -> Result<Self> {
        let own = self.own_ranges();
        let flat = self.values.f_view([-1])?;
        let part = |range: &Range<i64>| flat.f_narrow(0, range.start, range.end - range.start);
        let amaxes = own.iter().map(|range| recipe::amax(&part(range)?)).collect::<Result<Vec<_>>>()?;
        let scales = match &self.delayed {
            Some(members) => {
                for ([_, noted], amax) in members.iter().zip(&amaxes) {
                    noted.shallow_clone().f_copy_(amax)?;
                }
                // A copy: the next step changes the scales.
                Tensor::f_stack(&members.iter().map(|[scale, _]| scale).collect::<Vec<_>>(), 0)?
            }
            None => {
                let amax = Tensor::f_stack(&amaxes, 0)?;
                self.mesh.dp_cp_group().all_reduce(&amax, Reduce::Max)?;
                self.mesh.axis(Axis::Tensor).all_reduce(&amax, Reduce::Max)?;
                recipe::current(&amax, self.format.max(), false)?
            }
        };
        let bytes = self.bytes.f_view([-1])?;
        for (range, index) in own.iter().zip(0..) {
            if range.is_empty() {
                continue;
            }
            let quantized = Float8Tensor::quantize(&part(range)?.f_unsqueeze(0)?, &scales.f_select(0, index)?, self.format)?;
            let mut place = bytes.f_narrow(0, range.start, range.end - range.start)?;
            place.f_copy_(&quantized.data().f_view_dtype(Kind::Uint8)?.f_view([-1])?)?;
        }
        Ok(Self {
            values: self.values.shallow_clone(),
            bytes: self.bytes.shallow_clone(),
            members: self.members.clone(),
            delayed: None,
            scales,
            format: self.format,
            mesh: self.mesh.clone(),
        })
    }

    /// Writes the gathered values into the weights.
    ///
    /// # Errors
    /// libtorch refused (out of memory).
    pub(super) fn dequantize(&self) -> Result<()> {
        let (bytes, flat) = (self.bytes.f_view([-1])?, self.values.f_view([-1])?);
        for (range, index) in self.members.iter().zip(0..) {
            let (start, len) = (range.start, range.end - range.start);
            let values = bytes
                .f_narrow(0, start, len)?
                .f_view_dtype(self.format.kind())?
                .f_to_kind(Kind::Float)?;
            let values = values.f_mul(&self.scales.f_select(0, index)?.f_reciprocal()?)?;
            no_grad(|| flat.f_narrow(0, start, len)?.f_copy_(&values))?;
        }
        Ok(())
    }

    /// Returns the ranges of the members that this rank updates; may be empty.
    fn own_ranges(&self) -> Vec<Range<i64>> {
        let shard = self.values.size()[1];
        let first = self.mesh.dp_cp_group().rank() as i64 * shard;
        let within = |at: i64| at.clamp(first, first + shard);
        self.members.iter().map(|range| within(range.start)..within(range.end)).collect()
    }
}
