//! The projector from vision features to the language model's width.

use crate::error::Result;
use crate::nn::{Build, Linear};
use tch::Tensor;

/// `mlp2x_gelu` of LLaVA-1.5 (arXiv:2310.03744), as `transformers.LlavaMultiModalProjector`.
#[derive(Debug)]
pub(super) struct Projector {
    linear_1: Linear,
    linear_2: Linear,
}

impl Projector {
    /// Takes the two linears.
    pub(super) fn new(build: &Build<'_>) -> Result<Self> {
        Ok(Self {
            linear_1: build.linear("linear_1")?,
            linear_2: build.linear("linear_2")?,
        })
    }

    /// Features `[b, s, vision h]` to `[b, s, h]`.
    pub(super) fn forward(&self, x_bsh: &Tensor) -> Result<Tensor> {
        self.linear_2.forward(&self.linear_1.forward(x_bsh)?.gelu("none"))
    }
}
