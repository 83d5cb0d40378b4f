//! The two conjugate operators at the borders of a tensor-parallel region (Megatron-LM, arXiv:1909.08053,
//! figure 3): `f` copies forwards and sums gradients, `g` sums forwards and copies gradients.

use crate::comm::{Collective, Reduce};
use crate::error::{EngineError, Result};
use neva_torch_ffi::{BoxError, Function, apply};
use std::sync::Arc;
use tch::Tensor;

/// `f`: what goes into a region is the same on every rank; its gradient is the sum over the ranks.
///
/// # Errors
/// A collective failed (in the backward pass: out of the call that started it).
pub fn copy_to_region(x: &Tensor, group: &Arc<dyn Collective>) -> Result<Tensor> {
    if group.size() == 1 {
        Ok(x.shallow_clone())
    } else {
        one(apply(CopyToRegion(group.clone()), &[x])?)
    }
}

/// `g`: what comes out of a region is the sum over the ranks; its gradient is the same on every rank.
///
/// # Errors
/// A collective failed.
pub fn reduce_from_region(x: &Tensor, group: &Arc<dyn Collective>) -> Result<Tensor> {
    if group.size() == 1 {
        Ok(x.shallow_clone())
    } else {
        one(apply(ReduceFromRegion(group.clone()), &[x])?)
    }
}

pub(crate) fn one(mut outputs: Vec<Tensor>) -> Result<Tensor> {
    outputs
        .pop()
        .ok_or_else(|| EngineError::Bug("a function of one output returned none".into()))
}

struct CopyToRegion(Arc<dyn Collective>);

impl Function for CopyToRegion {
    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, BoxError> {
        Ok(vec![inputs[0].shallow_clone()])
    }

    fn backward(&mut self, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>, BoxError> {
        let Some(grad) = &grads[0] else { return Ok(vec![None]) };
        // A copy: the gradient may be shared with other consumers.
        let sum = grad.contiguous().copy();
        self.0.all_reduce(&sum, Reduce::Sum)?;
        Ok(vec![Some(sum)])
    }
}

struct ReduceFromRegion(Arc<dyn Collective>);

impl Function for ReduceFromRegion {
    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, BoxError> {
        let sum = inputs[0].contiguous().copy();
        self.0.all_reduce(&sum, Reduce::Sum)?;
        Ok(vec![sum])
    }

    fn backward(&mut self, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>, BoxError> {
        Ok(vec![grads[0].as_ref().map(Tensor::shallow_clone)])
    }
}
