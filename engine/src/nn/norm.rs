//! Normalization over the last dim.

use tch::{Kind, Tensor};

/// Root-mean-square norm (arXiv:1910.07467), as `transformers.LlamaRMSNorm`: statistics in fp32, the
/// weight applied in the input's kind.
#[derive(Debug)]
pub struct RmsNorm {
    weight_h: Tensor,
    eps: f64,
}

impl RmsNorm {
    pub(super) fn new(weight_h: Tensor, eps: f64) -> Self {
        Self { weight_h, eps }
    }

    /// `x / sqrt(mean(x^2) + eps) * weight`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let x32 = x.to_kind(Kind::Float);
        let scale = (x32.square().mean_dim(-1, true, Kind::Float) + self.eps).rsqrt();
        &self.weight_h * (x32 * scale).to_kind(x.kind())
    }
}

/// Layer norm (arXiv:1607.06450).
#[derive(Debug)]
pub struct LayerNorm {
    weight_h: Tensor,
    bias_h: Tensor,
    eps: f64,
}

impl LayerNorm {
    pub(super) fn new(weight_h: Tensor, bias_h: Tensor, eps: f64) -> Self {
        Self { weight_h, bias_h, eps }
    }

    /// `(x - mean) / sqrt(var + eps) * weight + bias`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.layer_norm(self.weight_h.size(), Some(&self.weight_h), Some(&self.bias_h), self.eps, false)
    }
}
