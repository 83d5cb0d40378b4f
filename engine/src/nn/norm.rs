//! Normalization over the last dim.

use super::region::TensorRegion;
use crate::error::Result;
use crate::param_sync::Weight;
use tch::{Kind, Tensor};

/// Root-mean-square norm (arXiv:1910.07467), as `transformers.LlamaRMSNorm`: statistics in fp32, the
/// weight applied in the input's kind.
#[derive(Debug)]
pub struct RmsNorm {
    weight_h: Weight,
    eps: f64,
    /// The ranks that the normalized dim is sharded over; `None` if every rank has the whole dim.
    cut_over: Option<TensorRegion>,
}

impl RmsNorm {
    pub(super) fn new(weight_h: Weight, eps: f64, cut_over: Option<TensorRegion>) -> Self {
        Self { weight_h, eps, cut_over }
    }

    /// Computes `x / sqrt(mean(x^2) + eps) * weight`.
    ///
    /// # Errors
    /// The rank that the weight comes from failed, or a collective did.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let Some(region) = &self.cut_over else {
            return Ok(neva_kernels::rms_norm(x, self.weight_h.get()?, self.eps)?);
        };
        let x32 = x.to_kind(Kind::Float);
        let mean = x32.square().mean_dim(-1, true, Kind::Float);
        // Every rank reads the sum, so the gradient is summed, too.
        let mean = region.enter(&region.sum(&mean)?)? / region.size() as f64;
        let scale = (mean + self.eps).rsqrt();
        Ok(self.weight_h.get()? * (x32 * scale).to_kind(x.kind()))
    }
}

/// Layer norm (arXiv:1607.06450); `shift` is added to the weight: 1 in Megatron's zero-centered form (LayerNorm1p).
#[derive(Debug)]
pub struct LayerNorm {
    weight_h: Weight,
    bias_h: Weight,
    shift: f64,
    eps: f64,
}

impl LayerNorm {
    pub(super) fn new(weight_h: Weight, bias_h: Weight, shift: f64, eps: f64) -> Self {
        Self {
            weight_h,
            bias_h,
            shift,
            eps,
        }
    }

    /// Computes `(x - mean) / sqrt(var + eps) * (weight + shift) + bias`.
    ///
    /// # Errors
    /// The rank that a weight comes from failed.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (weight_h, bias_h) = (self.weight_h.get()?, self.bias_h.get()?);
        let size = weight_h.size();
        Ok(if self.shift == 0.0 {
            x.layer_norm(size, Some(weight_h), Some(bias_h), self.eps, false)
        } else {
            x.layer_norm(size, Some(&(weight_h + self.shift)), Some(bias_h), self.eps, false)
        })
    }
}
