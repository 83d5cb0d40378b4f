//! Decoder of all built-in families (Llama: arXiv:2302.13971, grouped queries of arXiv:2307.09288), as
//! `transformers.LlamaModel`. The config determines norm, biases, activation, rotary embedding and window.

use super::parts::{Decoder, Decoding};
use crate::attention::{CausalAttention, KvCache, Segments, attend};
use crate::error::{EngineError, Result};
use crate::nn::{
    Block, Build, ColumnLinears, LayerNorm, Linear, OutputPositions, RmsNorm, Rope, RopeFrequencies, Stack, Submodule, VocabEmbedding,
    activate, gated,
};
use neva_layout::ChunkSpec;
use neva_layout::families::{DecoderNorm, DecoderStructure};
use neva_schemas::{Activation, TextConfig};
use std::sync::Arc;
use tch::Tensor;

/// The decoder, or a chunk of it: embedding, layers, final norm. The head belongs to the loss.
#[derive(Debug)]
struct Transformer {
    embed_tokens: Option<VocabEmbedding>,
    layers: Stack<Layer>,
    norm: Option<Norm>,
    frequencies: RopeFrequencies,
}

/// Takes the parameters of a chunk.
pub(super) fn build(config: &TextConfig, chunk: &ChunkSpec, build: &Build<'_>) -> Result<Box<dyn Decoder>> {
    let embed_tokens = chunk.first.then(|| build.vocab_embedding("embed_tokens")).transpose()?;
    let norm = chunk.last.then(|| Norm::new(config, "norm", build)).transpose()?;
    let frequencies = RopeFrequencies::new(config.rotary_dim(), config.rope_theta);
    Ok(Box::new(Transformer {
        embed_tokens,
        layers: Stack::new(build, "layers", chunk.layers.clone(), |layer, build| {
            Layer::new(config, config.window(layer), build)
        })?,
        norm,
        frequencies: match &config.rope_scaling {
            Some(scaling) => frequencies.scaled(scaling),
            None => frequencies,
        },
    }))
}

impl Transformer {
    fn finish(&self, x_bsh: Tensor) -> Result<Tensor> {
        match &self.norm {
            Some(norm) => norm.forward(&x_bsh),
            None => Ok(x_bsh),
        }
    }
}

impl Decoder for Transformer {
    fn embed(&self, ids_bs: &Tensor) -> Result<Tensor> {
        let embed_tokens = self.embed_tokens.as_ref();
        embed_tokens
            .ok_or_else(|| EngineError::Bug("this chunk of the model embeds nothing".into()))?
            .forward(ids_bs)
    }

    fn forward(&self, hidden_bsh: &Tensor, s: i64, segments: &Segments, outputs: &OutputPositions) -> Result<Tensor> {
        let (kind, device) = (hidden_bsh.kind(), hidden_bsh.device());
        let inputs = PassInputs {
            rope: Rope::new(&segments.positions(s), &self.frequencies, kind, device),
            segments: segments.clone(),
        };
        self.finish(self.layers.forward_at(hidden_bsh, &inputs, outputs)?)
    }

    fn decoding(&self) -> Decoding {
        Decoding::new(self.layers.len())
    }

    fn decode(&self, embeds_bsh: &Tensor, decoding: &mut Decoding) -> Result<Tensor> {
        let (first, s) = (decoding.position(), embeds_bsh.size()[1]);
        let positions: Vec<_> = (first..first + s).collect();
        let inputs = PassInputs {
            rope: Rope::new(&[positions], &self.frequencies, embeds_bsh.kind(), embeds_bsh.device()),
            segments: Segments::rows(&[s as usize]),
        };
        let layers = &self.layers;
        self.finish(layers.forward_each(embeds_bsh, decoding.caches(), |layer, x_bsh, cache| {
            layer.run(x_bsh, &inputs, Some(cache), &OutputPositions::All)
        })?)
    }
}

/// Positions and segments of the hidden states of a pass.
#[derive(Debug, Clone)]
struct PassInputs {
    rope: Rope,
    segments: Segments,
}

/// Norm over the last dim: RMSNorm or LayerNorm.
#[derive(Debug)]
enum Norm {
    Rms(RmsNorm),
    Layer(LayerNorm),
}

impl Norm {
    fn new(config: &TextConfig, name: &str, build: &Build<'_>) -> Result<Self> {
        Ok(match DecoderStructure::of(config).norm {
            DecoderNorm::Rms => Self::Rms(build.rms_norm(name, config.eps())?),
            DecoderNorm::LayerNorm1p => Self::Layer(build.layer_norm_1p(name, config.eps())?),
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Rms(norm) => norm.forward(x),
            Self::Layer(norm) => norm.forward(x),
        }
    }
}

#[derive(Debug)]
struct Layer {
    input_norm: Norm,
    qkv: ColumnLinears<3>,
    o: Linear,
    post_attention_norm: Norm,
    mlp: Submodule<Mlp>,
    causal: Arc<dyn CausalAttention>,
    head_dim: i64,
    /// Number of positions that a query attends to, itself included.
    window: Option<usize>,
}

impl Layer {
    fn new(config: &TextConfig, window: Option<usize>, build: &Build<'_>) -> Result<Self> {
        Ok(Self {
            input_norm: Norm::new(config, "input_layernorm", build)?,
            qkv: build.column_linears(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"])?,
            o: build.linear("self_attn.o_proj")?,
            post_attention_norm: Norm::new(config, "post_attention_layernorm", build)?,
            mlp: build.mlp("mlp", |build| Mlp::new(config, build))?,
            causal: build.attention(),
            head_dim: config.head_dim() as i64,
            window,
        })
    }

    /// Computes the hidden states of `outputs`: of all positions in all layers but the last.
    fn run(&self, x_bsh: &Tensor, inputs: &PassInputs, cache: Option<&mut KvCache>, outputs: &OutputPositions) -> Result<Tensor> {
        let attended_bsh = self.attention(&self.input_norm.forward(x_bsh)?, inputs, cache, outputs)?;
        let x_bsh = outputs.select(x_bsh)? + attended_bsh;
        Ok(&x_bsh + self.mlp.forward(&self.post_attention_norm.forward(&x_bsh)?, &())?)
    }

    /// Computes attention with the queries of `outputs`, and the keys and values of all positions.
    fn attention(
        &self,
        x_bsh: &Tensor,
        PassInputs { rope, segments }: &PassInputs,
        cache: Option<&mut KvCache>,
        outputs: &OutputPositions,
    ) -> Result<Tensor> {
        let heads = |y_bsh: &Tensor| {
            let size = y_bsh.size();
            y_bsh.view([size[0], size[1], -1, self.head_dim]).transpose(1, 2)
        };
        let [q, k, v] = self.qkv.forward_first_at(x_bsh, outputs)?;
        let (q, k, v) = (rope.apply(&heads(&q))?, rope.apply(&heads(&k))?, heads(&v));
        let segments = segments.windowed(self.window);
        let o_bsh = match cache {
            Some(cache) => {
                let (k, v) = cache.extend(k, v);
                attend(&q, &k, &v, Some(&segments))?
            }
            None => self.causal.attend(&q, &k, &v, &segments)?,
        };
        self.o.forward(&outputs.select(&o_bsh)?)
    }
}

impl Block for Layer {
    type With = PassInputs;

    fn forward(&self, x_bsh: &Tensor, inputs: &PassInputs) -> Result<Tensor> {
        self.run(x_bsh, inputs, None, &OutputPositions::All)
    }

    fn forward_at(&self, x_bsh: &Tensor, inputs: &PassInputs, outputs: &OutputPositions) -> Result<Tensor> {
        self.run(x_bsh, inputs, None, outputs)
    }
}

/// MLP with or without a gate (SwiGLU: arXiv:2002.05202).
#[derive(Debug)]
struct Mlp {
    up: Up,
    down: Linear,
    activation: Activation,
}

/// Input projections of an MLP.
#[derive(Debug)]
enum Up {
    Gated(Box<ColumnLinears<2>>),
    Plain(Box<Linear>),
}

impl Mlp {
    fn new(config: &TextConfig, build: &Build<'_>) -> Result<Self> {
        Ok(Self {
            up: if DecoderStructure::of(config).gated {
                Up::Gated(Box::new(build.column_linears(["gate_proj", "up_proj"])?))
            } else {
                Up::Plain(Box::new(build.linear("up_proj")?))
            },
            down: build.linear("down_proj")?,
            activation: config.activation(),
        })
    }
}

impl Block for Mlp {
    type With = ();

    fn forward(&self, x_bsh: &Tensor, (): &()) -> Result<Tensor> {
        let y_bsf = match &self.up {
            Up::Gated(gate_up) => {
                let [gate_bsf, up_bsf] = gate_up.forward(x_bsh)?;
                gated(self.activation, &gate_bsf, &up_bsf)?
            }
            Up::Plain(up) => activate(self.activation, &up.forward(x_bsh)?),
        };
        self.down.forward(&y_bsf)
    }
}
