//! Borders of a tensor-parallel region (Megatron-LM, arXiv:1909.08053, figure 3; with sequence parallelism
//! arXiv:2205.05198, figure 5): pairs of operators, each the backward pass of the other.
//!
//! | border | plain | sequence parallel |
//! |---|---|---|
//! | into the region | copy; gradients are summed | gather along the sequence; gradients are summed and scattered |
//! | out of it | sum; gradients are copied | sum and scatter along the sequence; gradients are gathered |
//!
//! With sequence parallelism each rank holds a shard of each sequence outside the region (norms, residuals, dropout).
//! The gradients of the parameters there are partial sums.

use super::dropout::Part;
use crate::autograd::one;
use crate::comm::{ProcessGroup, Reduce};
use crate::error::{EngineError, Result};
use neva_torch_ffi::{BoxError, Function, apply};
use std::sync::Arc;
use tch::Tensor;

/// Dim of the sequence in `[b, s, h]`.
const SEQUENCE: i64 = 1;

/// The tensor-parallel group of a model's matrices, with the operators at its borders.
#[derive(Debug, Clone)]
pub struct TensorRegion {
    group: Arc<dyn ProcessGroup>,
    sequence: bool,
}

impl TensorRegion {
    /// Returns the region of `group`. With `sequence_parallel` each rank holds a shard of each sequence outside it.
    pub fn new(group: Arc<dyn ProcessGroup>, sequence_parallel: bool) -> Self {
        let sequence = sequence_parallel && group.size() > 1;
        Self { group, sequence }
    }

    /// Returns the region of the same ranks with whole sequences on every rank outside it.
    pub fn whole_sequences(&self) -> Self {
        Self {
            group: self.group.clone(),
            sequence: false,
        }
    }

    /// Returns the tensor-parallel group.
    pub fn group(&self) -> &Arc<dyn ProcessGroup> {
        &self.group
    }

    /// Returns the number of ranks.
    pub fn size(&self) -> usize {
        self.group.size()
    }

    /// Returns the part of each sequence that a rank has outside the region.
    pub(super) fn outside(&self) -> Part {
        match self.sequence {
            true => Part {
                rank: self.group.rank(),
                ranks: self.group.size(),
            },
            false => Part::WHOLE,
        }
    }

    /// Takes `x` into the region, where every rank has all of it.
    ///
    /// # Errors
    /// A collective failed. In the backward pass the call that started it returns the error.
    pub fn enter(&self, x: &Tensor) -> Result<Tensor> {
        match (self.size(), self.sequence) {
            (1, _) => Ok(x.shallow_clone()),
            (_, false) => one(apply(Copy(self.group.clone()), &[x])?),
            (_, true) => one(apply(Gather(self.group.clone()), &[x])?),
        }
    }

    /// Takes partial sums out of the region.
    ///
    /// # Errors
    /// A collective failed.
    pub fn leave(&self, x: &Tensor) -> Result<Tensor> {
        match (self.size(), self.sequence) {
            (1, _) => Ok(x.shallow_clone()),
            (_, false) => self.sum(x),
            (_, true) => one(apply(ReduceScatter(self.group.clone()), &[x])?),
        }
    }

    /// Returns the sum of partial sums on every rank. Its gradient is the same on every rank.
    ///
    /// # Errors
    /// A collective failed.
    pub fn sum(&self, x: &Tensor) -> Result<Tensor> {
        match self.size() {
            1 => Ok(x.shallow_clone()),
            _ => one(apply(Sum(self.group.clone()), &[x])?),
        }
    }

    /// Returns this rank's shard outside the region, of `[b, s, h]` that is the same on every rank: all of it, or its
    /// shard of each sequence.
    ///
    /// # Errors
    /// A collective failed, or the sequence cannot be cut evenly.
    pub fn scatter(&self, x_bsh: &Tensor) -> Result<Tensor> {
        if !self.sequence {
            return Ok(x_bsh.shallow_clone());
        }
        let (s, ranks) = (x_bsh.size()[SEQUENCE as usize], self.size() as i64);
        if s % ranks != 0 {
            return Err(EngineError::Bug(format!(
                "a sequence of {s} positions cannot be cut over {ranks} ranks"
            )));
        }
        one(apply(Scatter(self.group.clone()), &[x_bsh])?)
    }
}

type Group = Arc<dyn ProcessGroup>;

/// Returns the sum over the ranks.
fn summed(group: &Group, x: &Tensor) -> Result<Tensor, BoxError> {
    // A copy: the tensor may be shared with other consumers.
    let sum = x.contiguous().copy();
    group.all_reduce(&sum, Reduce::Sum)?;
    Ok(sum)
}

/// Returns this rank's shard of each sequence of the sum over the ranks.
fn summed_part(group: &Group, x: &Tensor) -> Result<Tensor, BoxError> {
    let parts = x.chunk(group.size() as i64, SEQUENCE);
    Ok(group.reduce_scatter(&Tensor::stack(&parts, 0))?)
}

/// Gathers whole sequences.
fn gathered(group: &Group, x: &Tensor) -> Result<Tensor, BoxError> {
    Ok(Tensor::cat(&group.all_gather(&x.contiguous())?, SEQUENCE))
}

/// Defines an autograd function of one tensor by its forward and its backward pass.
macro_rules! border {
    ($(#[$doc:meta])* $name:ident, $forward:expr, $backward:expr) => {
        $(#[$doc])*
        struct $name(Group);

        impl Function for $name {
            fn forward(&mut self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, BoxError> {
                let forward: fn(&Group, &Tensor) -> Result<Tensor, BoxError> = $forward;
                Ok(vec![forward(&self.0, inputs[0])?])
            }

            fn backward(&mut self, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>, BoxError> {
                let backward: fn(&Group, &Tensor) -> Result<Tensor, BoxError> = $backward;
                Ok(vec![grads[0].as_ref().map(|grad| backward(&self.0, grad)).transpose()?])
            }
        }
    };
}

border!(
    /// Megatron's `f`.
    Copy,
    |_, x| Ok(x.shallow_clone()),
    summed
);
border!(
    /// Megatron's `g`.
    Sum,
    summed,
    |_, grad| Ok(grad.shallow_clone())
);
border!(
    /// Megatron's `g` with sequence parallelism, on the way in.
    Gather,
    gathered,
    summed_part
);
border!(
    /// Its counterpart on the way out.
    ReduceScatter,
    summed_part,
    gathered
);
border!(
    /// Splits a tensor that is the same on every rank into shards.
    Scatter,
    |group, x| Ok(x.chunk(group.size() as i64, SEQUENCE)[group.rank()].contiguous()),
    gathered
);
