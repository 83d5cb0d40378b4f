//! Arithmetic of scales: functions of tensors without state, and the blocks of values that have one.
//!
//! Source: Transformer Engine 2.x, `common/recipe/delayed_scaling.cu` (history and delayed scale),
//! `common/recipe/recipe_common.cuh` (scale of a current amax) and `common/recipe/__init__.py` (`Float8BlockScaling`,
//! `MXFP8BlockScaling`). All values are fp32.

use super::format::Role;
use crate::error::Result;
use neva_kernels::{BLOCK, MX_BLOCK};
use neva_schemas::{Fp8, Fp8AmaxComputeAlgo, Fp8Recipe};
use tch::Tensor;

/// Returns rows and columns of the blocks in which a step quantises a tensor; `None` if it has one scale. Blocks of one row lie
/// along the dim that a product sums over, so that a transposed matrix has other blocks.
pub fn blocks(recipe: Fp8Recipe, role: Role) -> Option<[i64; 2]> {
    match (recipe, role) {
        (Fp8Recipe::Delayed | Fp8Recipe::Tensorwise, _) => None,
        (Fp8Recipe::Blockwise, Role::Weight) => Some([BLOCK, BLOCK]),
        (Fp8Recipe::Blockwise, _) => Some([1, BLOCK]),
        (Fp8Recipe::Mxfp8, _) => Some([1, MX_BLOCK]),
    }
}

/// Returns rows and columns of the blocks of a frozen weight. They are square: one copy of the weight serves products with it
/// and with its transposed matrix, since each row of a square block has the same scale.
pub fn frozen_blocks(recipe: Fp8Recipe) -> Option<[i64; 2]> {
    match recipe {
        Fp8Recipe::Delayed | Fp8Recipe::Tensorwise => None,
        Fp8Recipe::Blockwise => Some([BLOCK, BLOCK]),
        Fp8Recipe::Mxfp8 => Some([MX_BLOCK, MX_BLOCK]),
    }
}

/// Returns the largest magnitude of `x`, a scalar; infinite if a value is NaN or infinite, and 0 for an empty tensor.
pub fn amax(x: &Tensor) -> Result<Tensor> {
    Ok(neva_kernels::amax(x)?)
}

/// Returns amax histories `[.., len]`, whose first value is the newest, with `amax` `[..]` as the newest one. The oldest
/// value is dropped.
pub fn push(history: &Tensor, amax: &Tensor) -> Result<Tensor> {
    let kept = history.size().last().map_or(0, |len| len - 1);
    Ok(Tensor::f_cat(&[amax.f_unsqueeze(-1)?, history.f_narrow(-1, 0, kept)?], -1)?)
}

/// Returns the scales after a step: `largest / amax / 2^margin`, with the amax that the recipe selects from `history`
/// `[.., len]`. A scale stays as it is if that amax is 0 or not finite. `largest` `[..]` holds the largest values of the
/// formats.
pub fn delayed(history: &Tensor, scale: &Tensor, largest: &Tensor, settings: &Fp8) -> Result<Tensor> {
    let amax = match settings.amax_compute_algo {
        Fp8AmaxComputeAlgo::MostRecent => history.f_select(-1, 0)?,
        Fp8AmaxComputeAlgo::Max => history.f_amax([-1].as_slice(), false)?,
    };
    let margin = 0.5f64.powi(i32::try_from(settings.margin).unwrap_or(i32::MAX));
    // A tiny amax would make the scale infinite.
    let next = largest.f_mul_scalar(margin)?.f_div(&amax)?.f_clamp_max(f64::from(f32::MAX))?;
    let usable = amax.f_isfinite()?.f_logical_and(&amax.f_gt(0.0)?)?;
    Ok(next.f_where_self(&usable, scale)?)
}

/// Returns the scales `largest / amax` of tensors or blocks with these amaxes: 1 if an amax is 0 or not finite. With
/// `power_of_two` they are rounded down to a power of 2.
pub fn current(amax: &Tensor, largest: f64, power_of_two: bool) -> Result<Tensor> {
    Ok(neva_kernels::current_scale(amax, largest, power_of_two)?)
}
