//! Checks of the collectives' tensors before the call: Gloo's own checks are few, and
//! some of them end the process.

use tch::{Device, Kind, Tensor};

use super::ReduceOp;
use crate::error::{Error, Result};

/// Gloo reads and writes raw memory on the host.
pub(super) fn check_memory(op: &str, tensor: &Tensor) -> Result<()> {
    if !tensor.defined() {
        return Err(Error::Argument(format!("{op}: undefined tensor")));
    }
    if tensor.device() != Device::Cpu {
        return Err(Error::Argument(format!(
            "{op}: Gloo needs a CPU tensor, this one is on {:?}",
            tensor.device()
        )));
    }
    if tensor.is_sparse() || !tensor.is_contiguous() {
        let size = tensor.size();
        return Err(Error::Argument(format!(
            "{op}: the tensor of shape {size:?} is not contiguous; call `contiguous()`"
        )));
    }
    Ok(())
}

pub(super) fn check_tensor(op: &str, tensor: &Tensor) -> Result<()> {
    check_memory(op, tensor)?;
    let kind = tensor.f_kind().map_err(|error| Error::Argument(format!("{op}: {error}")))?;
    match kind {
        Kind::Float | Kind::Double | Kind::Half | Kind::BFloat16 | Kind::Int64 | Kind::Int | Kind::Int8 | Kind::Uint8 => Ok(()),
        other => Err(Error::Argument(format!(
            "{op}: Gloo does not know {other:?}; pass its bytes, `view_dtype(Kind::Uint8)`"
        ))),
    }
}

pub(super) fn check_pair(op: &str, output: &Tensor, input: &Tensor) -> Result<()> {
    check_tensor(op, output)?;
    check_tensor(op, input)?;
    if output.kind() != input.kind() {
        let (output, input) = (output.kind(), input.kind());
        return Err(Error::Argument(format!("{op}: output is {output:?}, input {input:?}")));
    }
    Ok(())
}

pub(super) fn check_reducible(op: &str, tensor: &Tensor, reduce: ReduceOp) -> Result<()> {
    let kind = tensor.kind();
    let is_float = matches!(kind, Kind::Float | Kind::Double | Kind::Half | Kind::BFloat16);
    if reduce == ReduceOp::Avg && !is_float {
        return Err(Error::Argument(format!(
            "{op}: the average of {kind:?} is not one; use Sum, or a floating kind"
        )));
    }
    Ok(())
}

pub(super) fn check_count(op: &str, large: &str, have: usize, small: &str, part: usize, size: usize) -> Result<()> {
    if have == part * size {
        return Ok(());
    }
    Err(Error::Argument(format!(
        "{op}: {large} has {have} elements, want {size} ranks x {part} of {small}"
    )))
}

pub(super) fn check_rows(op: &str, what: &str, tensor: &Tensor, rows: &[i64], size: usize) -> Result<()> {
    let Some(&have) = tensor.size().first() else {
        return Err(Error::Argument(format!("{op}: {what} has no dimension to split")));
    };
    if rows.is_empty() {
        let ranks = i64::try_from(size).unwrap_or(i64::MAX);
        return if have % ranks == 0 {
            Ok(())
        } else {
            Err(Error::Argument(format!(
                "{op}: {have} rows of {what} do not split evenly over {size} ranks; give the rows"
            )))
        };
    }
    if rows.len() != size || rows.iter().any(|count| *count < 0) || rows.iter().sum::<i64>() != have {
        return Err(Error::Argument(format!(
            "{op}: rows {rows:?} of {what} are not {size} counts with sum {have}"
        )));
    }
    Ok(())
}
