//! Products of FP8 matrices.
//!
//! libtorch's `_scaled_mm` multiplies a row-major matrix by a column-major one (the only form that cuBLASLt has on Hopper),
//! with one scale each, and needs dims that are multiples of 16. Products of matrices with tiles are computed from the
//! dequantised values: their scales are powers of 2, so that these are exact in bf16, too.

use super::tensor::Float8Tensor;
use crate::effects::GemmKind;
use crate::error::{EngineError, Result};
use neva_schemas::{Fp8, Fp8Recipe, Problem};
use tch::{Device, Kind, Tensor};

/// Multiple of the dims of hardware GEMMs.
const ALIGNMENT: i64 = 16;

/// Setting that permits emulation.
const EMULATE: &str = "finetune.trainer.plugins.fp8_emulate";

/// Implementation of the GEMMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gemm {
    /// libtorch's `_scaled_mm`: FP8 on GPUs that have it, and a reference implementation on the CPU.
    ScaledMm,
    /// Products of the dequantised values.
    Dequantized,
}

impl Gemm {
    /// Chooses the implementation for a device.
    ///
    /// # Errors
    /// The device does not compute the recipe in FP8, and the run does not ask for emulation.
    pub fn choose(settings: &Fp8, device: Device) -> Result<Self> {
        let in_hardware = device.is_cuda() && settings.recipe != Fp8Recipe::Blockwise && multiplies(device);
        if in_hardware {
            return Ok(Self::ScaledMm);
        }
        if settings.emulate {
            return Ok(match device {
                Device::Cpu => Self::ScaledMm,
                _ => Self::Dequantized,
            });
        }
        let message = match (settings.recipe, device.is_cuda()) {
            (Fp8Recipe::Blockwise, true) => {
                "libtorch's bindings have no GEMM with block scales: products of FP8 blocks are computed in bf16"
            }
            (_, true) => "this GPU has no FP8: it needs compute capability 8.9 or higher (Ada, Hopper, Blackwell)",
            (_, false) => "a CPU has no FP8: products of FP8 values are computed in fp32, slowly",
        };
        let help = format!("set {EMULATE}=true to compute so, or finetune.trainer.plugins.fp8=null for bf16");
        Err(EngineError::Run(vec![Problem::error(EMULATE, message).help(help)]))
    }

    /// Returns what a product with `operand` counts as.
    pub fn effect(self, operand: &Float8Tensor) -> GemmKind {
        match self {
            Self::ScaledMm if operand.has_one_scale() && operand.data().device().is_cuda() => GemmKind::Fp8,
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
        let fast = fast && a.data().device().is_cuda();
        let (a_data, b_data) = (aligned(a.data(), [m, k])?, aligned(b.data(), [n, k])?);
        let (none, b_columns) = (None::<Tensor>, b_data.f_transpose(0, 1)?);
        let product = a_data.f_internal_scaled_mm(&b_columns, a.scale_inv(), b.scale_inv(), none.as_ref(), none.as_ref(), kind, fast)?;
        Ok(product.f_narrow(0, 0, m)?.f_narrow(1, 0, n)?)
    }
}

/// Returns `data` with zeros after it, so that its dims are multiples of 16.
fn aligned(data: &Tensor, size: [i64; 2]) -> Result<Tensor> {
    let [rows, columns] = size.map(|size| (ALIGNMENT - size % ALIGNMENT) % ALIGNMENT);
    if rows == 0 && columns == 0 {
        return Ok(data.shallow_clone());
    }
    let bytes = data.f_view_dtype(Kind::Uint8)?.f_constant_pad_nd([0, columns, 0, rows])?;
    Ok(bytes.f_view_dtype(data.kind())?)
}

/// Returns whether a GPU multiplies FP8 matrices.
fn multiplies(device: Device) -> bool {
    let multiply = || -> Result<()> {
        let ones = Tensor::f_ones([ALIGNMENT, ALIGNMENT], (Kind::Float, device))?;
        let scale = Tensor::f_ones([], (Kind::Float, device))?;
        let a = Float8Tensor::quantize(&ones, &scale, super::Format::E4m3)?;
        Gemm::ScaledMm.multiply(&a, &a, Kind::BFloat16, false)?.f_double_value(&[0, 0])?;
        Ok(())
    };
    multiply().is_ok()
}
