//! Rotary position embedding (arXiv:2104.09864), Hugging Face's half-rotation layout.

use tch::{Device, Kind, Tensor};

/// Cosines and sines of the positions of a batch.
#[derive(Debug)]
pub struct Rope {
    cos_b1sd: Tensor,
    sin_b1sd: Tensor,
}

impl Rope {
    /// Angles of the given positions, row by row: computed in fp32, used in `kind`. Equal rows are computed once.
    pub fn new(positions: &[Vec<i64>], head_dim: usize, theta: f64, kind: Kind, device: Device) -> Self {
        let half = head_dim as i64 / 2;
        let exponent = Tensor::arange(half, (Kind::Int64, device)).to_kind(Kind::Float) * 2.0 / head_dim as f64;
        let inverse = Tensor::pow_scalar(theta, &exponent).reciprocal();
        let same = positions.windows(2).all(|pair| pair[0] == pair[1]);
        let rows = if same { &positions[..positions.len().min(1)] } else { positions };
        let positions_bs = Tensor::from_slice(&rows.concat())
            .view([rows.len() as i64, -1])
            .to_device(device)
            .to_kind(Kind::Float);
        let angles_b1sd = (positions_bs.unsqueeze(1).unsqueeze(-1) * &inverse).repeat([1, 1, 1, 2]);
        Self {
            cos_b1sd: angles_b1sd.cos().to_kind(kind),
            sin_b1sd: angles_b1sd.sin().to_kind(kind),
        }
    }

    /// Rotates `x_bnsd` by its positions.
    pub fn apply(&self, x_bnsd: &Tensor) -> Tensor {
        let halves = x_bnsd.chunk(2, -1);
        let rotated = Tensor::cat(&[-&halves[1], halves[0].shallow_clone()], -1);
        x_bnsd * &self.cos_b1sd + rotated * &self.sin_b1sd
    }
}

impl Clone for Rope {
    /// Another handle on the same values.
    fn clone(&self) -> Self {
        Self {
            cos_b1sd: self.cos_b1sd.shallow_clone(),
            sin_b1sd: self.sin_b1sd.shallow_clone(),
        }
    }
}
