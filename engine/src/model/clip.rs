//! CLIP's vision transformer (arXiv:2103.00020), as `transformers.CLIPVisionModel`.

use crate::error::Result;
use crate::nn::{Block, Build, ColumnLinears, LayerNorm, Linear, Stack, attend};
use neva_schemas::VisionConfig;
use tch::Tensor;

/// The encoder up to the hidden state that LLaVA takes.
#[derive(Debug)]
pub(super) struct ClipVision {
    class_embedding_h: Tensor,
    patch_embedding: Tensor,
    position_embedding_sh: Tensor,
    pre_norm: LayerNorm,
    layers: Stack<Layer>,
}

impl ClipVision {
    /// Takes the parameters of the first `layers` layers.
    pub(super) fn new(config: &VisionConfig, layers: usize, build: &Build<'_>) -> Result<Self> {
        Ok(Self {
            class_embedding_h: build.tensor("embeddings.class_embedding")?,
            patch_embedding: build.tensor("embeddings.patch_embedding.weight")?,
            position_embedding_sh: build.tensor("embeddings.position_embedding.weight")?,
            pre_norm: build.layer_norm("pre_layrnorm", config.layer_norm_eps)?,
            layers: Stack::new(build, "encoder.layers", 0..layers, |build| Layer::new(config, build))?,
        })
    }

    /// Pictures `[b, channels, height, width]` to hidden states `[b, 1 + patches, h]`, class token first.
    pub(super) fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let patch = self.patch_embedding.size()[2];
        let patches_bsh = pixels
            .conv2d(&self.patch_embedding, None::<Tensor>, patch, 0, 1, 1)
            .flatten(2, 3)
            .transpose(1, 2);
        let class_bsh = self.class_embedding_h.expand([pixels.size()[0], 1, -1], false);
        let x_bsh = Tensor::cat(&[class_bsh, patches_bsh], 1) + &self.position_embedding_sh;
        self.layers.forward(&self.pre_norm.forward(&x_bsh), &())
    }
}

#[derive(Debug)]
struct Layer {
    norm1: LayerNorm,
    qkv: ColumnLinears<3>,
    out: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    head_dim: i64,
}

impl Layer {
    fn new(config: &VisionConfig, build: &Build<'_>) -> Result<Self> {
        Ok(Self {
            norm1: build.layer_norm("layer_norm1", config.layer_norm_eps)?,
            qkv: build.column_linears(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"])?,
            out: build.linear("self_attn.out_proj")?,
            norm2: build.layer_norm("layer_norm2", config.layer_norm_eps)?,
            fc1: build.linear("mlp.fc1")?,
            fc2: build.linear("mlp.fc2")?,
            head_dim: config.head_dim() as i64,
        })
    }

    fn attention(&self, x_bsh: &Tensor) -> Result<Tensor> {
        let heads = |y_bsh: Tensor| {
            let size = y_bsh.size();
            y_bsh.view([size[0], size[1], -1, self.head_dim]).transpose(1, 2)
        };
        let [q, k, v] = self.qkv.forward(x_bsh)?.map(heads);
        self.out.forward(&attend(&q, &k, &v, None))
    }
}

impl Block for Layer {
    type With = ();

    fn forward(&self, x_bsh: &Tensor, (): &()) -> Result<Tensor> {
        let x_bsh = x_bsh + self.attention(&self.norm1.forward(x_bsh))?;
        let y_bsf = quick_gelu(&self.fc1.forward(&self.norm2.forward(&x_bsh))?);
        Ok(x_bsh + self.fc2.forward(&y_bsf)?)
    }
}

/// `x * sigmoid(1.702 x)`, CLIP's approximation of GELU.
fn quick_gelu(x: &Tensor) -> Tensor {
    x * (x * 1.702).sigmoid()
}
