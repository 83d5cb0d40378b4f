//! Arithmetic of scales: functions of tensors without state.
//!
//! Source: Transformer Engine 2.x, `common/recipe/delayed_scaling.cu` (history and delayed scale) and
//! `common/recipe/recipe_common.cuh` (scale of a current amax). All values are fp32.

use crate::error::Result;
use neva_schemas::{Fp8, Fp8AmaxComputeAlgo};
use tch::Tensor;

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
