//! A custom decoder family, second file: the forward pass.
//!
//! The code does not depend on the number of ranks, and neither waits for gathered weights nor recomputes: the blocks of
//! [`Build`] do.

use neva_engine::attention::{CausalAttention, KvCache, Segments, attend};
use neva_engine::model::{Decoder, Decoding};
use neva_engine::nn::{
    Block, Build, ColumnLinears, LayerNorm, Linear, OutputPositions, Rope, RopeFrequencies, Stack, Submodule, VocabEmbedding,
};
use neva_engine::{EngineError, Result};
use neva_layout::ChunkSpec;
use neva_schemas::TextConfig;
use std::sync::Arc;
use tch::Tensor;

#[derive(Debug)]
struct Parallel {
    wte: Option<VocabEmbedding>,
    blocks: Stack<Layer>,
    norm: Option<LayerNorm>,
    frequencies: RopeFrequencies,
}

/// Takes the parameters of a chunk.
pub fn build(config: &TextConfig, chunk: &ChunkSpec, build: &Build<'_>) -> Result<Box<dyn Decoder>> {
    Ok(Box::new(Parallel {
        wte: chunk.first.then(|| build.vocab_embedding("wte")).transpose()?,
        blocks: Stack::new(build, "blocks", chunk.layers.clone(), |_, build| Layer::new(config, build))?,
        norm: chunk.last.then(|| build.layer_norm("norm", 1e-5)).transpose()?,
        frequencies: RopeFrequencies::new(config.head_dim(), config.rope_theta),
    }))
}

impl Parallel {
    fn inputs(&self, positions: &[Vec<i64>], segments: Segments, like: &Tensor) -> PassInputs {
        PassInputs {
            rope: Rope::new(positions, &self.frequencies, like.kind(), like.device()),
            segments,
        }
    }

    fn finish(&self, x_bsh: Tensor) -> Result<Tensor> {
        self.norm
            .as_ref()
            .map_or_else(|| Ok(x_bsh.shallow_clone()), |norm| norm.forward(&x_bsh))
    }
}

impl Decoder for Parallel {
    fn embed(&self, ids_bs: &Tensor) -> Result<Tensor> {
        let wte = self.wte.as_ref();
        wte.ok_or_else(|| EngineError::Bug("this chunk embeds nothing".into()))?
            .forward(ids_bs)
    }

    fn forward(&self, hidden_bsh: &Tensor, s: i64, segments: &Segments, outputs: &OutputPositions) -> Result<Tensor> {
        let inputs = self.inputs(&segments.positions(s), segments.clone(), hidden_bsh);
        self.finish(self.blocks.forward_at(hidden_bsh, &inputs, outputs)?)
    }

    fn decoding(&self) -> Decoding {
        Decoding::new(self.blocks.len())
    }

    fn decode(&self, embeds_bsh: &Tensor, decoding: &mut Decoding) -> Result<Tensor> {
        let (first, s) = (decoding.position(), embeds_bsh.size()[1]);
        let inputs = self.inputs(&[(first..first + s).collect()], Segments::rows(&[s as usize]), embeds_bsh);
        let run = |layer: &Layer, x_bsh: &Tensor, cache: &mut KvCache| layer.run(x_bsh, &inputs, Some(cache));
        self.finish(self.blocks.forward_each(embeds_bsh, decoding.caches(), run)?)
    }
}

#[derive(Debug, Clone)]
struct PassInputs {
    rope: Rope,
    segments: Segments,
}

#[derive(Debug)]
struct Layer {
    norm: LayerNorm,
    qkv: ColumnLinears<3>,
    out: Linear,
    mlp: Submodule<Mlp>,
    causal: Arc<dyn CausalAttention>,
    head_dim: i64,
}

impl Layer {
    fn new(config: &TextConfig, build: &Build<'_>) -> Result<Self> {
        Ok(Self {
            norm: build.layer_norm("norm", 1e-5)?,
            qkv: build.column_linears(["q", "k", "v"])?,
            out: build.linear("out")?,
            mlp: build.mlp("", Mlp::new)?,
            causal: build.attention(),
            head_dim: config.head_dim() as i64,
        })
    }

    fn run(&self, x_bsh: &Tensor, PassInputs { rope, segments }: &PassInputs, cache: Option<&mut KvCache>) -> Result<Tensor> {
        let normed_bsh = self.norm.forward(x_bsh)?;
        let heads = |y_bsh: &Tensor| {
            let size = y_bsh.size();
            y_bsh.view([size[0], size[1], -1, self.head_dim]).transpose(1, 2)
        };
        let [q, k, v] = self.qkv.forward(&normed_bsh)?;
        let (q, k, v) = (rope.apply(&heads(&q))?, rope.apply(&heads(&k))?, heads(&v));
        let o_bsh = match cache {
            Some(cache) => {
                let (k, v) = cache.extend(k, v);
                attend(&q, &k, &v, Some(segments))?
            }
            None => self.causal.attend(&q, &k, &v, segments)?,
        };
        Ok(x_bsh + self.out.forward(&o_bsh)? + self.mlp.forward(&normed_bsh, &())?)
    }
}

impl Block for Layer {
    type With = PassInputs;

    fn forward(&self, x_bsh: &Tensor, inputs: &PassInputs) -> Result<Tensor> {
        self.run(x_bsh, inputs, None)
    }
}

#[derive(Debug)]
struct Mlp {
    fc_in: Linear,
    fc_out: Linear,
}

impl Mlp {
    fn new(build: &Build<'_>) -> Result<Self> {
        Ok(Self {
            fc_in: build.linear("fc_in")?,
            fc_out: build.linear("fc_out")?,
        })
    }
}

impl Block for Mlp {
    type With = ();

    fn forward(&self, x_bsh: &Tensor, (): &()) -> Result<Tensor> {
        self.fc_out.forward(&self.fc_in.forward(x_bsh)?.gelu("none"))
    }
}
