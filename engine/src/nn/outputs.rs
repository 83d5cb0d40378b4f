//! Positions whose last hidden states are read.

use crate::autograd::one;
use crate::error::Result;
use neva_torch_ffi::{BoxError, Function, apply};
use tch::Tensor;

/// Positions whose last hidden states are read. A loss reads those of labelled positions, so the last layer computes its
/// queries and its MLP there only; keys and values are those of all positions.
#[derive(Debug)]
pub enum OutputPositions {
    /// All positions.
    All,
    /// These places in the flattened `[b * s]`, ascending.
    At(Tensor),
}

impl Clone for OutputPositions {
    /// Returns another handle on the same positions.
    fn clone(&self) -> Self {
        match self {
            Self::All => Self::All,
            Self::At(at_t) => Self::At(at_t.shallow_clone()),
        }
    }
}

impl OutputPositions {
    /// Returns the positions of `labels_bs` that have a label: at least 0.
    pub fn labelled(labels_bs: &Tensor) -> Self {
        let labelled_t = labels_bs.flatten(0, -1).ge(0).nonzero().flatten(0, -1);
        match labelled_t.numel() == labels_bs.numel() {
            true => Self::All,
            false => Self::At(labelled_t),
        }
    }

    /// Returns the number of positions; `None` for all of them.
    pub fn count(&self) -> Option<usize> {
        match self {
            Self::All => None,
            Self::At(at_t) => Some(at_t.numel()),
        }
    }

    /// Returns the places in the flattened `[b * s]`; `None` for all of them.
    pub(super) fn places(&self) -> Option<Vec<usize>> {
        match self {
            Self::All => None,
            Self::At(at_t) => Vec::<i64>::try_from(at_t)
                .ok()
                .map(|places| places.into_iter().map(|place| place as usize).collect()),
        }
    }

    /// Returns the rows of `[b, s, ..]` at these positions as `[1, t, ..]`; `x` itself for all positions.
    ///
    /// # Errors
    /// libtorch refused.
    pub fn select(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::All => Ok(x.shallow_clone()),
            Self::At(at_t) => one(apply(Select(at_t.shallow_clone(), Vec::new()), &[x])?),
        }
    }

    /// Returns `[b, s, h]` with the rows of `x_1th` at these positions, and zeros elsewhere; `x` itself for all positions.
    ///
    /// # Errors
    /// libtorch refused.
    pub(super) fn place(&self, x: &Tensor, [b, s]: [i64; 2]) -> Result<Tensor> {
        let Self::At(at_t) = self else { return Ok(x.shallow_clone()) };
        let h = x.size().last().copied().unwrap_or(1);
        let rows_th = Tensor::f_zeros([b * s, h], (x.kind(), x.device()))?.f_index_copy(0, at_t, &x.f_flatten(0, 1)?)?;
        Ok(rows_th.f_view([b, s, h])?)
    }
}

/// Autograd node of [`OutputPositions::select`], with the size of its input. The places are distinct, so its backward pass
/// copies: it need not add.
struct Select(Tensor, Vec<i64>);

impl Function for Select {
    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, BoxError> {
        self.1 = inputs[0].size();
        Ok(vec![inputs[0].f_flatten(0, 1)?.f_index_select(0, &self.0)?.f_unsqueeze(0)?])
    }

    fn backward(&mut self, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>, BoxError> {
        let Some(grad) = &grads[0] else { return Ok(vec![None]) };
        let rows = Tensor::f_zeros(self.1.as_slice(), (grad.kind(), grad.device()))?;
        let _ = rows.f_flatten(0, 1)?.f_index_copy_(0, &self.0, &grad.f_flatten(0, 1)?)?;
        Ok(vec![Some(rows)])
    }
}
