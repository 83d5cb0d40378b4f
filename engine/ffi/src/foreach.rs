//! Foreach kernels: each call processes a list of tensors. All but [`norm`] work in place, and autograd does not record
//! them. An empty list is a no-op.

use std::ptr::null_mut;

use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::sys::{self, CTensor};
use crate::tensors::{check_defined, from_raw, pointer, pointers};

/// Returns the norm of each tensor: `order` 2 is the Euclidean norm, infinity the maximum absolute value.
///
/// `kind` is the kind of the computation and of the result (`None`: that of the tensor). Use `Kind::Float` for
/// half-precision gradients.
pub fn norm(tensors: &[&Tensor], order: f64, kind: Option<Kind>) -> Result<Vec<Tensor>> {
    let list = checked(tensors)?;
    if list.is_empty() {
        return Ok(vec![]);
    }
    let dtype = match kind {
        None => -1,
        Some(Kind::Half) => 5,
        Some(Kind::Float) => 6,
        Some(Kind::Double) => 7,
        Some(Kind::BFloat16) => 15,
        Some(other) => {
            return Err(Error::Argument(format!(
                "the kind of a norm must be a floating-point kind, not {other:?}"
            )));
        }
    };
    let mut results: Vec<*mut CTensor> = vec![null_mut(); list.len()];
    // SAFETY: both lists have `list.len()` entries; the tensors are defined and borrowed for the call.
    unsafe { sys::neva_foreach_norm(list.as_ptr(), list.len(), order, dtype, results.as_mut_ptr()) }.check("foreach norm")?;
    // SAFETY: on success every pointer points to a new tensor that C++ gave to us.
    Ok(results.into_iter().filter_map(|raw| unsafe { from_raw(raw) }).collect())
}

/// Multiplies each tensor by `factor`.
pub fn mul_(tensors: &[&Tensor], factor: f64) -> Result<()> {
    let list = checked(tensors)?;
    if list.is_empty() {
        return Ok(());
    }
    // SAFETY: `list` holds pointers to defined tensors that are borrowed for the call.
    unsafe { sys::neva_foreach_mul_scalar(list.as_ptr(), list.len(), factor) }.check("foreach mul")
}

/// Multiplies each tensor by the scalar tensor `factor`, without copying it to the host.
pub fn mul_tensor_(tensors: &[&Tensor], factor: &Tensor) -> Result<()> {
    let list = checked(tensors)?;
    check_defined("factor", [factor])?;
    if list.is_empty() {
        return Ok(());
    }
    // SAFETY: as in `mul_`; `factor` is defined and borrowed for the call.
    unsafe { sys::neva_foreach_mul_tensor(list.as_ptr(), list.len(), pointer(factor)) }.check("foreach mul")
}

/// Adds `alpha * others[i]` to `tensors[i]`.
pub fn add_(tensors: &[&Tensor], others: &[&Tensor], alpha: f64) -> Result<()> {
    let (list, others) = checked_pair(tensors, others)?;
    if list.is_empty() {
        return Ok(());
    }
    // SAFETY: two lists of the same length, of pointers to defined tensors that are borrowed for the call.
    unsafe { sys::neva_foreach_add(list.as_ptr(), others.as_ptr(), list.len(), alpha) }.check("foreach add")
}

/// Copies `others[i]` into `tensors[i]`, and converts the kind.
pub fn copy_(tensors: &[&Tensor], others: &[&Tensor]) -> Result<()> {
    let (list, others) = checked_pair(tensors, others)?;
    if list.is_empty() {
        return Ok(());
    }
    // SAFETY: as in `add_`.
    unsafe { sys::neva_foreach_copy(list.as_ptr(), others.as_ptr(), list.len()) }.check("foreach copy")
}

/// Fills each tensor with 0.
pub fn zero_(tensors: &[&Tensor]) -> Result<()> {
    let list = checked(tensors)?;
    if list.is_empty() {
        return Ok(());
    }
    // SAFETY: as in `mul_`.
    unsafe { sys::neva_foreach_zero(list.as_ptr(), list.len()) }.check("foreach zero")
}

fn checked(tensors: &[&Tensor]) -> Result<Vec<*const CTensor>> {
    check_defined("tensor", tensors.iter().copied())?;
    Ok(pointers(tensors.iter().copied()))
}

fn checked_pair(tensors: &[&Tensor], others: &[&Tensor]) -> Result<(Vec<*const CTensor>, Vec<*const CTensor>)> {
    if tensors.len() != others.len() {
        return Err(Error::Argument(format!("{} tensors, but {} others", tensors.len(), others.len())));
    }
    Ok((checked(tensors)?, checked(others)?))
}
