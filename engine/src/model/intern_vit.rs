//! InternViT (arXiv:2312.14238), as `transformers.InternVLVisionModel`.

use super::parts::VisionEncoder;
use super::vit::{Features, attention, patches};
use crate::attention::AttentionCore;
use crate::error::Result;
use crate::nn::{Block, Build, ColumnLinears, LayerNorm, Linear, RmsNorm, activate};
use crate::param_sync::Weight;
use neva_schemas::{Activation, VisionConfig, VisionNorm, VisionTower};
use tch::Tensor;

/// Epsilon of the norms of queries and keys.
const QK_NORM_EPS: f64 = 1e-6;

/// The encoder up to the last selected hidden state.
#[derive(Debug)]
struct InternVit {
    class_11h: Weight,
    patch_embedding: Weight,
    patch_bias_h: Weight,
    position_embedding_1sh: Weight,
    features: Features<Layer>,
    /// Norm of the last layer's hidden state, if it is selected and has a norm.
    norm: Option<LayerNorm>,
}

/// Takes the parameters of the layers in use.
pub(super) fn build(tower: &VisionTower, build: &Build<'_>) -> Result<Box<dyn VisionEncoder>> {
    let config = &tower.config;
    let has_norm = !config.use_mean_pooling && tower.post_norm;
    Ok(Box::new(InternVit {
        class_11h: build.weight("embeddings.cls_token")?,
        patch_embedding: build.weight("embeddings.patch_embeddings.projection.weight")?,
        patch_bias_h: build.weight("embeddings.patch_embeddings.projection.bias")?,
        position_embedding_1sh: build.weight("embeddings.position_embeddings")?,
        features: Features::new(tower, build, "encoder.layer", |build| Layer::new(config, build))?,
        norm: has_norm.then(|| build.layer_norm("layernorm", config.layer_norm_eps)).transpose()?,
    }))
}

impl VisionEncoder for InternVit {
    fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let patches_bsh = patches(pixels, self.patch_embedding.get()?, Some(self.patch_bias_h.get()?));
        let class_bsh = self.class_11h.get()?.expand([pixels.size()[0], -1, -1], false);
        let x_bsh = Tensor::cat(&[class_bsh, patches_bsh], 1) + self.position_embedding_1sh.get()?;
        self.features.forward(x_bsh, |last_bsh| match &self.norm {
            Some(norm) => norm.forward(&last_bsh),
            None => Ok(last_bsh),
        })
    }
}

/// Norm of a layer.
#[derive(Debug)]
enum Norm {
    Layer(LayerNorm),
    Rms(RmsNorm),
}

impl Norm {
    fn new(name: &str, config: &VisionConfig, build: &Build<'_>) -> Result<Self> {
        Ok(match config.norm_type {
            VisionNorm::LayerNorm => Self::Layer(build.layer_norm(name, config.layer_norm_eps)?),
            VisionNorm::RmsNorm => Self::Rms(build.rms_norm(name, config.layer_norm_eps)?),
        })
    }

    fn forward(&self, x_bsh: &Tensor) -> Result<Tensor> {
        match self {
            Self::Layer(norm) => norm.forward(x_bsh),
            Self::Rms(norm) => norm.forward(x_bsh),
        }
    }
}

/// A layer that scales its two residual updates (LayerScale, arXiv:2103.17239).
#[derive(Debug)]
struct Layer {
    norm1: Norm,
    qkv: ColumnLinears<3>,
    core: AttentionCore,
    /// Norms of queries and of keys, each over all heads.
    qk_norm: Option<[RmsNorm; 2]>,
    out: Linear,
    scale1_h: Weight,
    norm2: Norm,
    fc1: Linear,
    fc2: Linear,
    scale2_h: Weight,
    head_dim: i64,
    activation: Activation,
}

impl Layer {
    fn new(config: &VisionConfig, build: &Build<'_>) -> Result<Self> {
        let qk_norm = || -> Result<_> {
            let norm = |name| build.rms_norm(name, QK_NORM_EPS);
            Ok([norm("attention.q_norm")?, norm("attention.k_norm")?])
        };
        Ok(Self {
            norm1: Norm::new("layernorm_before", config, build)?,
            qkv: build.column_linears(["attention.q_proj", "attention.k_proj", "attention.v_proj"])?,
            qk_norm: config.use_qk_norm.then(qk_norm).transpose()?,
            core: build.attention_core(),
            out: build.linear("attention.projection_layer")?,
            scale1_h: build.weight("lambda_1")?,
            norm2: Norm::new("layernorm_after", config, build)?,
            fc1: build.linear("mlp.fc1")?,
            fc2: build.linear("mlp.fc2")?,
            scale2_h: build.weight("lambda_2")?,
            head_dim: config.head_dim() as i64,
            activation: config.activation(),
        })
    }
}

impl Block for Layer {
    type With = ();

    fn forward(&self, x_bsh: &Tensor, (): &()) -> Result<Tensor> {
        let [q, k, v] = self.qkv.forward(&self.norm1.forward(x_bsh)?)?;
        let (q, k) = match &self.qk_norm {
            Some([q_norm, k_norm]) => (q_norm.forward(&q)?, k_norm.forward(&k)?),
            None => (q, k),
        };
        let attended = self.out.forward(&attention(&self.core, [q, k, v], self.head_dim)?)?;
        let x_bsh = x_bsh + attended * self.scale1_h.get()?;
        let y_bsf = activate(self.activation, &self.fc1.forward(&self.norm2.forward(&x_bsh)?)?);
        Ok(&x_bsh + self.fc2.forward(&y_bsf)? * self.scale2_h.get()?)
    }
}
