//! Products of FP8 matrices.
//!
//! libtorch's `_scaled_mm` multiplies a row-major matrix by a column-major one (the only form that cuBLASLt has on Hopper),
//! and needs dims that are multiples of 16. It takes one scale for each matrix, and on Hopper (compute capability 9.0, cuBLASLt
//! 12.9) one for each block. On Blackwell (10.0) it takes one for each 32 values of MXFP8. Elsewhere products of matrices with
//! blocks are computed from the dequantised values: their scales are powers of 2, so that these are exact in bf16, too.

use super::tensor::Float8Tensor;
use super::{Format, Role, mx, recipe};
use crate::effects::GemmKind;
use crate::error::{EngineError, Result};
use neva_kernels::{BLOCK, MX_BLOCK};
use neva_schemas::{Fp8, Fp8Recipe, Problem};
use tch::{Device, Kind, Tensor};

/// Multiple of the dims of hardware GEMMs.
const ALIGNMENT: i64 = 16;

/// Setting that permits emulation.
const EMULATE: &str = "finetune.trainer.plugins.fp8_emulate";

/// Implementation of the GEMMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gemm {
    /// libtorch's `_scaled_mm`: FP8 on GPUs that have it. On a CPU it computes the same, on those with AMX by an implementation
    /// of oneDNN that takes some thirty times as long as a product in fp32.
    ScaledMm,
    /// libtorch's `_scaled_mm` with scales of blocks, on Hopper.
    BlockScaledMm(ScaleRows),
    /// libtorch's `_scaled_mm` with a scale for each 32 values, on Blackwell.
    MxScaledMm,
    /// Products of the dequantised values.
    Dequantized,
}

/// Layout of the scales of 128x128 blocks, which versions of libtorch expect differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScaleRows {
    /// Rows of a multiple of four scales, as cuBLASLt reads them.
    InFours,
    /// Rows one after another.
    Packed,
}

impl ScaleRows {
    /// Returns the inverse scales of a matrix in blocks as `_scaled_mm` expects them (`is_blockwise_1x128_scaling` and
    /// `is_blockwise_128x128_scaling` in its `ScaledBlas.cpp`): of 1x128 blocks column by column, one for each row of the padded
    /// matrix; of square ones row by row.
    ///
    /// # Errors
    /// libtorch refused.
    pub fn of(self, operand: &Float8Tensor) -> Result<Tensor> {
        let inverse = operand.scale_inv();
        let columns = inverse.size().get(1).copied().unwrap_or(1);
        match (operand.tile(), self) {
            (None, _) => Ok(inverse.shallow_clone()),
            (Some([1, _]), _) => {
                let [rows, _] = operand.size();
                let padded = inverse.f_constant_pad_nd([0, 0, 0, missing(rows, ALIGNMENT)])?;
                Ok(padded.f_transpose(0, 1)?.f_contiguous()?.f_transpose(0, 1)?)
            }
            (Some(_), Self::InFours) => {
                let padded = inverse.f_constant_pad_nd([0, missing(columns, 4)])?.f_contiguous()?;
                Ok(padded.f_narrow(1, 0, columns)?)
            }
            (Some(_), Self::Packed) => Ok(inverse.f_contiguous()?),
        }
    }
}

impl Gemm {
    /// Chooses the implementation for a device.
    ///
    /// # Errors
    /// The device does not compute the recipe in FP8, and the run does not ask for emulation.
    pub fn choose(settings: &Fp8, device: Device) -> Result<Self> {
        if let Some(in_hardware) = Self::of_hardware(settings, device) {
            return Ok(in_hardware);
        }
        if settings.emulate {
            return Ok(Self::Dequantized);
        }
        let message = match (settings.recipe, device.is_cuda()) {
            (Fp8Recipe::Blockwise, true) => {
                "this GPU multiplies no FP8 blocks: libtorch has these products for Hopper GPUs (compute capability 9.0) alone"
            }
            (Fp8Recipe::Mxfp8, true) => "this GPU has no MXFP8: it needs compute capability 10.0 or higher (Blackwell)",
            (_, true) => "this GPU has no FP8: it needs compute capability 8.9 or higher (Ada, Hopper, Blackwell)",
            (_, false) => "a CPU has no FP8: products of FP8 values are computed in fp32, slowly",
        };
        let help = format!("set {EMULATE}=true to compute so, or finetune.trainer.plugins.fp8=null for bf16");
        Err(EngineError::Run(vec![Problem::error(EMULATE, message).help(help)]))
    }

    /// Returns the implementation of a GPU, if products of random matrices are right with it.
    fn of_hardware(settings: &Fp8, device: Device) -> Option<Self> {
        if !device.is_cuda() {
            return None;
        }
        let blocks = [ScaleRows::InFours, ScaleRows::Packed].map(Self::BlockScaledMm);
        let candidates = match settings.recipe {
            Fp8Recipe::Blockwise => &blocks[..],
            Fp8Recipe::Mxfp8 => &[Self::MxScaledMm],
            Fp8Recipe::Delayed | Fp8Recipe::Tensorwise => &[Self::ScaledMm],
        };
        candidates
            .iter()
            .copied()
            .find(|gemm| gemm.is_right(settings, device).unwrap_or(false))
    }

    /// Returns whether the three products of a linear are those of the dequantised values, of matrices whose blocks have
    /// different scales.
    fn is_right(self, settings: &Fp8, device: Device) -> Result<bool> {
        // The inner dim has 5 blocks: no multiple of four.
        let [t, i, o] = [3 * BLOCK, 5 * BLOCK, 2 * BLOCK];
        let gradient = Format::of(settings.format, super::Role::Gradient);
        let random = |rows: i64, columns: i64, format: Format, blocks: Option<[i64; 2]>| -> Result<Float8Tensor> {
            let exponents = Tensor::f_arange(rows, (Kind::Float, device))?.f_remainder(7.0)?.f_exp2()?;
            let values = Tensor::f_randn([rows, columns], (Kind::Float, device))?.f_mul(&exponents.f_unsqueeze(1)?)?;
            match blocks {
                Some(blocks) => Float8Tensor::quantize_tiles(&values, blocks, format),
                None => Float8Tensor::quantize(&values, &Tensor::f_ones([], (Kind::Float, device))?, format),
            }
        };
        let row = recipe::blocks(settings.recipe, Role::Input);
        let square = recipe::frozen_blocks(settings.recipe);
        for (a, b) in [
            (random(t, i, Format::E4m3, row)?, random(o, i, Format::E4m3, square)?),
            (random(t, i, gradient, row)?, random(o, i, Format::E4m3, square)?),
            (random(o, i, gradient, row)?, random(t, i, Format::E4m3, row)?),
        ] {
            let own = self.multiply(&a, &b, Kind::BFloat16, false)?.f_to_kind(Kind::Float)?;
            let expected = a
                .dequantize(Kind::Float)?
                .f_matmul(&b.dequantize(Kind::Float)?.f_transpose(0, 1)?)?;
            let off = own.f_sub(&expected)?.f_abs()?.f_max()?.f_div(&expected.f_abs()?.f_max()?)?;
            let off = off.f_double_value(&[])?;
            if off.is_nan() || off > 1e-2 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns what a product with `operand` counts as.
    pub fn effect(self, operand: &Float8Tensor) -> GemmKind {
        match self {
            Self::ScaledMm if operand.data().device().is_cuda() => GemmKind::Fp8,
            Self::BlockScaledMm(_) | Self::MxScaledMm => GemmKind::Fp8,
            Self::ScaledMm | Self::Dequantized => GemmKind::Fp8Emulated,
        }
    }

    /// Returns `a b^T` `[m, n]` of `a` `[m, k]` and `b` `[n, k]`, summed in fp32 and rounded to `kind`. `fast` permits sums with
    /// fewer bits on the hardware.
    ///
    /// # Errors
    /// libtorch refused.
    pub fn multiply(self, a: &Float8Tensor, b: &Float8Tensor, kind: Kind, fast: bool) -> Result<Tensor> {
        let ([m, k], [n, _]) = (a.size(), b.size());
        if m == 0 || n == 0 || k == 0 {
            return Ok(Tensor::f_zeros([m, n], (kind, a.data().device()))?);
        }
        let fast = fast && a.data().device().is_cuda();
        match self {
            Self::BlockScaledMm(rows) => {
                let scales = [rows.of(a)?, rows.of(b)?.f_transpose(0, 1)?];
                return scaled_mm([a, b], &scales, ALIGNMENT, kind, fast);
            }
            Self::MxScaledMm => return scaled_mm([a, b], &[mx::scales(a)?, mx::scales(b)?], MX_BLOCK, kind, fast),
            Self::ScaledMm | Self::Dequantized => {}
        }
        if !(a.has_one_scale() && b.has_one_scale()) {
            let transposed = b.dequantize(kind)?.f_transpose(0, 1)?;
            return Ok(a.dequantize(kind)?.f_matmul(&transposed)?);
        }
        if self == Self::Dequantized {
            // The inverse scales are no powers of 2, so they are applied to the sums.
            let [a_values, b_values] = [a, b].map(|operand| operand.data().f_to_kind(Kind::Float));
            let sums = a_values?.f_matmul(&b_values?.f_transpose(0, 1)?)?;
            return Ok(sums.f_mul(a.scale_inv())?.f_mul(b.scale_inv())?.f_to_kind(kind)?);
        }
        let scales = [a.scale_inv().shallow_clone(), b.scale_inv().shallow_clone()];
        scaled_mm([a, b], &scales, ALIGNMENT, kind, fast)
    }
}

/// Returns `a b^T` by `_scaled_mm`. `scales` are inverse scales of both as it expects them, and `alignment` the number that the
/// inner dim must be a multiple of.
fn scaled_mm([a, b]: [&Float8Tensor; 2], scales: &[Tensor; 2], alignment: i64, kind: Kind, fast: bool) -> Result<Tensor> {
    let ([m, k], [n, _]) = (a.size(), b.size());
    let (a_data, b_data) = (aligned(a.data(), [m, k], alignment)?, aligned(b.data(), [n, k], alignment)?);
    let (none, b_columns) = (None::<Tensor>, b_data.f_transpose(0, 1)?);
    let [a_scales, b_scales] = scales;
    let product = a_data.f_internal_scaled_mm(&b_columns, a_scales, b_scales, none.as_ref(), none.as_ref(), kind, fast)?;
    Ok(product.f_narrow(0, 0, m)?.f_narrow(1, 0, n)?)
}

/// Returns how much `size` lacks to be a multiple of `of`.
fn missing(size: i64, of: i64) -> i64 {
    (of - size % of) % of
}

/// Returns `data` with zeros after it, so that its rows are a multiple of 16 and its columns one of `alignment`.
fn aligned(data: &Tensor, [rows, columns]: [i64; 2], alignment: i64) -> Result<Tensor> {
    let (rows, columns) = (missing(rows, ALIGNMENT), missing(columns, alignment));
    if rows == 0 && columns == 0 {
        return Ok(data.shallow_clone());
    }
    let bytes = data.f_view_dtype(Kind::Uint8)?.f_constant_pad_nd([0, columns, 0, rows])?;
    Ok(bytes.f_view_dtype(data.kind())?)
}
