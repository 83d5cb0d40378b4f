//! A weight with its adapter.

use crate::checkpoint::Values;
use crate::error::{EngineError, Result};
use neva_layout::LinearAdapter;
use tch::{Kind, Tensor};

/// Returns a weight with its adapter merged: `W + scale * B A`, with the rows' lengths of a magnitude.
pub(super) fn merge(values: &Values, name: &str, adapter: Option<&LinearAdapter>) -> Result<Tensor> {
    let value = |name: &str| {
        let value = values.get(name).ok_or_else(|| EngineError::Bug(format!("no value for `{name}`")));
        value.map(Tensor::shallow_clone)
    };
    let weight = value(name)?;
    let Some(adapter) = adapter else { return Ok(weight) };
    let float = |name: &str| -> Result<Tensor> { Ok(value(name)?.f_to_kind(Kind::Float)?) };
    let (a, b) = (float(&adapter.a)?, float(&adapter.b)?);
    let change = b.f_matmul(&a)?.f_mul_scalar(adapter.scale)?;
    let weight = weight.f_to_kind(Kind::Float)?.f_add(&change)?;
    let Some(magnitude) = &adapter.magnitude else { return Ok(weight) };
    let lengths = weight.f_norm_scalaropt_dim(2.0, [1i64].as_slice(), true)?;
    let rows = float(magnitude)?.f_view([-1, 1])?.f_div(&lengths)?;
    Ok(weight.f_mul(&rows)?)
}
