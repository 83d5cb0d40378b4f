//! The one rank and scale that vLLM has for all adapters.

use super::peft_config::Usual;
use crate::error::Result;
use tch::Tensor;

/// Change of an adapter to the one rank and scale that vLLM has for all.
pub(super) enum CommonRank {
    /// Fills rows of A with 0.
    Rows(Usual),
    /// Fills columns of B with 0, and scales it; the number is the adapter's own scale.
    Columns(Usual, f64),
}

impl CommonRank {
    /// Returns the changed tensor.
    pub(super) fn apply(&self, tensor: &Tensor) -> Result<Tensor> {
        let fill = |dim: i64, usual: &Usual| -> Result<Tensor> {
            let missing = usual.rank as i64 - tensor.size()[dim as usize];
            if missing == 0 {
                return Ok(tensor.shallow_clone());
            }
            let mut shape = tensor.size();
            shape[dim as usize] = missing;
            let zeros = Tensor::f_zeros(&shape, (tensor.kind(), tensor.device()))?;
            Ok(Tensor::f_cat(&[tensor, &zeros], dim)?)
        };
        match self {
            Self::Rows(usual) => fill(0, usual),
            Self::Columns(usual, scale) => {
                let factor = scale / (usual.alpha / usual.rank as f64);
                let filled = fill(1, usual)?;
                Ok(if factor == 1.0 { filled } else { filled.f_mul_scalar(factor)? })
            }
        }
    }
}
