//! Projectors from vision features to the decoder's width.

use super::parts::Projector;
use crate::error::{EngineError, Result};
use crate::nn::{Build, LayerNorm, Linear, activate};
use neva_schemas::Activation;
use tch::Tensor;

/// Linears with an activation between them: `mlp2x_gelu` of LLaVA-1.5 (arXiv:2310.03744), as
/// `transformers.LlavaMultiModalProjector`, or with another number of linears.
#[derive(Debug)]
struct Mlp {
    linears: Vec<Linear>,
    activation: Activation,
}

impl Mlp {
    fn new(projector: &neva_schemas::Projector, build: &Build<'_>) -> Result<Self> {
        let linears = (1..=projector.kind.linears()).map(|number| build.linear(&format!("linear_{number}")));
        Ok(Self {
            linears: linears.collect::<Result<_>>()?,
            activation: projector.activation,
        })
    }
}

impl Projector for Mlp {
    fn forward(&self, x_bsh: &Tensor) -> Result<Tensor> {
        let mut y_bsh = x_bsh.shallow_clone();
        for (index, linear) in self.linears.iter().enumerate() {
            y_bsh = match index {
                0 => linear.forward(&y_bsh)?,
                _ => linear.forward(&activate(self.activation, &y_bsh))?,
            };
        }
        Ok(y_bsh)
    }
}

/// Takes the linears.
pub(super) fn mlp(projector: &neva_schemas::Projector, build: &Build<'_>) -> Result<Box<dyn Projector>> {
    Ok(Box::new(Mlp::new(projector, build)?))
}

/// Pixel shuffle, LayerNorm and two linears, as in `transformers.InternVLModel`.
#[derive(Debug)]
struct PixelShuffle {
    /// Side of the square of positions that is merged into one.
    factor: i64,
    norm: LayerNorm,
    mlp: Mlp,
}

/// Epsilon of `torch.nn.LayerNorm`.
const EPS: f64 = 1e-5;

/// Takes the norm and the linears.
pub(super) fn pixel_shuffle(projector: &neva_schemas::Projector, build: &Build<'_>) -> Result<Box<dyn Projector>> {
    let factor = projector.shuffle();
    let factor = factor.ok_or_else(|| EngineError::Bug("a pixel shuffle by a factor that is no whole number".into()))?;
    Ok(Box::new(PixelShuffle {
        factor: factor as i64,
        norm: build.layer_norm("layer_norm", EPS)?,
        mlp: Mlp::new(projector, build)?,
    }))
}

impl Projector for PixelShuffle {
    fn forward(&self, x_bsh: &Tensor) -> Result<Tensor> {
        let (size, factor) = (x_bsh.size(), self.factor);
        let (b, side, h) = (size[0], (size[1] as f64).sqrt() as i64, size[2]);
        let (small, wide) = (side / factor, h * factor);
        // The two steps of transformers' `pixel_shuffle`, with its order of the sides.
        let shuffled = x_bsh
            .reshape([b, side, small, wide])
            .permute([0, 2, 1, 3])
            .reshape([b, small, small, wide * factor])
            .permute([0, 2, 1, 3])
            .reshape([b, small * small, wide * factor]);
        self.mlp.forward(&self.norm.forward(&shuffled)?)
    }
}
