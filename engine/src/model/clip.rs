//! CLIP's vision transformer (arXiv:2103.00020), as `transformers.CLIPVisionModel`.

use super::parts::VisionEncoder;
use super::vit::{Features, Layer, patches};
use crate::error::Result;
use crate::nn::{Build, LayerNorm};
use crate::param_sync::Weight;
use neva_schemas::VisionTower;
use tch::Tensor;

/// The encoder up to the last selected hidden state.
#[derive(Debug)]
struct ClipVision {
    class_embedding_h: Weight,
    patch_embedding: Weight,
    position_embedding_sh: Weight,
    pre_norm: LayerNorm,
    features: Features<Layer>,
}

/// Takes the parameters of the layers in use.
pub(super) fn build(tower: &VisionTower, build: &Build<'_>) -> Result<Box<dyn VisionEncoder>> {
    let config = &tower.config;
    Ok(Box::new(ClipVision {
        class_embedding_h: build.weight("embeddings.class_embedding")?,
        patch_embedding: build.weight("embeddings.patch_embedding.weight")?,
        position_embedding_sh: build.weight("embeddings.position_embedding.weight")?,
        pre_norm: build.layer_norm("pre_layrnorm", config.layer_norm_eps)?,
        features: Features::new(tower, build, "encoder.layers", |build| Layer::new(config, build))?,
    }))
}

impl VisionEncoder for ClipVision {
    fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let patches_bsh = patches(pixels, self.patch_embedding.get()?, None);
        let class_bsh = self.class_embedding_h.get()?.expand([pixels.size()[0], 1, -1], false);
        let x_bsh = Tensor::cat(&[class_bsh, patches_bsh], 1) + self.position_embedding_sh.get()?;
        self.features.forward(self.pre_norm.forward(&x_bsh)?, Ok)
    }
}
