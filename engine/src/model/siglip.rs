//! SigLIP's vision transformer (arXiv:2303.15343), as `transformers.SiglipVisionModel`.

use super::parts::VisionEncoder;
use super::vit::{Features, Layer, patches};
use crate::error::Result;
use crate::nn::{Build, LayerNorm};
use crate::param_sync::Weight;
use neva_schemas::VisionTower;
use tch::Tensor;

/// The encoder up to the last selected hidden state. A LLaVA runs no norm after it: a hidden state is the output of a layer.
#[derive(Debug)]
struct SiglipVision {
    patch_embedding: Weight,
    patch_bias_h: Weight,
    position_embedding_sh: Weight,
    features: Features<Layer>,
    post_norm: Option<LayerNorm>,
}

/// Takes the parameters of the layers in use.
pub(super) fn build(tower: &VisionTower, build: &Build<'_>) -> Result<Box<dyn VisionEncoder>> {
    let post_norm = || build.layer_norm("post_layernorm", tower.config.layer_norm_eps);
    Ok(Box::new(SiglipVision {
        patch_embedding: build.weight("embeddings.patch_embedding.weight")?,
        patch_bias_h: build.weight("embeddings.patch_embedding.bias")?,
        position_embedding_sh: build.weight("embeddings.position_embedding.weight")?,
        features: Features::new(tower, build, "encoder.layers", |build| Layer::new(&tower.config, build))?,
        post_norm: tower.post_norm.then(post_norm).transpose()?,
    }))
}

impl VisionEncoder for SiglipVision {
    fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let patches_bsh = patches(pixels, self.patch_embedding.get()?, Some(self.patch_bias_h.get()?));
        let x_bsh = patches_bsh + self.position_embedding_sh.get()?;
        self.features.forward(x_bsh, |last_bsh| match &self.post_norm {
            Some(norm) => norm.forward(&last_bsh),
            None => Ok(last_bsh),
        })
    }
}
