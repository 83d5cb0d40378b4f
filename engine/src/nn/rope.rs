//! Rotary position embedding (arXiv:2104.09864), Hugging Face's half-rotation layout.

use crate::error::Result;
use neva_schemas::{RopeScaling, RopeType};
use std::f64::consts::TAU;
use tch::{Device, Kind, Tensor};

/// Angle per position for each pair of a head, in fp32.
#[derive(Debug)]
pub struct RopeFrequencies(Tensor);

impl RopeFrequencies {
    /// Returns frequencies `theta^(-2 i / dim)` of the `dim / 2` pairs of the first `dim` values of a head.
    pub fn new(dim: usize, theta: f64) -> Self {
        let exponent = Tensor::arange(dim as i64 / 2, (Kind::Int64, Device::Cpu)).to_kind(Kind::Float) * 2.0 / dim as f64;
        Self(Tensor::pow_scalar(theta, &exponent).reciprocal())
    }

    /// Returns the frequencies scaled by `scaling`.
    #[must_use]
    pub fn scaled(self, scaling: &RopeScaling) -> Self {
        let long = &self.0 / scaling.factor;
        match scaling.rope_type {
            RopeType::Linear => Self(long),
            RopeType::Llama3 => {
                let (low, high) = (scaling.low_freq_factor.unwrap_or(1.0), scaling.high_freq_factor.unwrap_or(4.0));
                let context = scaling.original_max_position_embeddings.unwrap_or(8192) as f64;
                // Turns over the original context: below `low` the frequency is scaled, above `high` it is unchanged.
                let turns = &self.0 * (context / TAU);
                let smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                Self((&smooth * -1.0 + 1.0) * long + smooth * &self.0)
            }
        }
    }
}

/// Cosines and sines of the positions of a batch.
#[derive(Debug)]
pub struct Rope {
    cos_b1sd: Tensor,
    sin_b1sd: Tensor,
}

impl Rope {
    /// Computes the angles of the given positions, row by row, in fp32; stores cosines and sines in `kind`. Equal rows are
    /// computed once.
    pub fn new(positions: &[Vec<i64>], frequencies: &RopeFrequencies, kind: Kind, device: Device) -> Self {
        let same = positions.windows(2).all(|pair| pair[0] == pair[1]);
        let rows = if same { &positions[..positions.len().min(1)] } else { positions };
        let positions_bs = Tensor::from_slice(&rows.concat())
            .view([rows.len() as i64, -1])
            .to_device(device)
            .to_kind(Kind::Float);
        let frequencies = frequencies.0.to_device(device);
        let angles_b1sd = (positions_bs.unsqueeze(1).unsqueeze(-1) * frequencies).repeat([1, 1, 1, 2]);
        Self {
            cos_b1sd: angles_b1sd.cos().to_kind(kind),
            sin_b1sd: angles_b1sd.sin().to_kind(kind),
        }
    }

    /// Rotates `x_bnsd` by its positions; values of a head without an angle are unchanged.
    ///
    /// # Errors
    /// libtorch or the GPU refused.
    pub fn apply(&self, x_bnsd: &Tensor) -> Result<Tensor> {
        Ok(neva_kernels::rotate(x_bnsd, &self.cos_b1sd, &self.sin_b1sd)?)
    }
}

impl Clone for Rope {
    /// Returns another handle on the same values.
    fn clone(&self) -> Self {
        Self {
            cos_b1sd: self.cos_b1sd.shallow_clone(),
            sin_b1sd: self.sin_b1sd.shallow_clone(),
        }
    }
}
