//! Llama (arXiv:2302.13971, grouped queries of arXiv:2307.09288), as `transformers.LlamaModel`.

use crate::error::{EngineError, Result};
use crate::nn::{
    Arrival, Block, Build, CausalAttention, ColumnLinears, KvCache, Linear, Recomputed, RmsNorm, Rope, Segments, Stack, VocabEmbedding,
    attend,
};
use crate::parallel::TensorRegion;
use neva_layout::Section;
use neva_schemas::{RecomputeModule, TextConfig};
use std::sync::Arc;
use tch::Tensor;

/// The decoder, or a section of it: embedding, layers, final norm. The head belongs to the loss.
#[derive(Debug)]
pub struct Llama {
    embed_tokens: Option<VocabEmbedding>,
    layers: Stack<Layer>,
    norm: Option<RmsNorm>,
    arrival: Arrival,
    region: TensorRegion,
    head_dim: usize,
    rope_theta: f64,
}

/// Keys and values of what was already read, for generation.
#[derive(Debug)]
pub struct Decoding {
    caches: Vec<KvCache>,
}

impl Llama {
    /// Takes the parameters of a section.
    pub fn new(config: &TextConfig, section: &Section, build: &Build<'_>) -> Result<Self> {
        let embed_tokens = section.first.then(|| build.vocab_embedding("embed_tokens")).transpose()?;
        let norm = section.last.then(|| build.rms_norm("norm", config.rms_norm_eps)).transpose()?;
        Ok(Self {
            embed_tokens,
            layers: Stack::new(build, "layers", section.layers.clone(), |build| Layer::new(config, build))?,
            norm,
            arrival: build.arrival(),
            region: build.region(),
            head_dim: config.head_dim(),
            rope_theta: config.rope_theta,
        })
    }

    /// Embeddings `[b, s, h]` of `ids_bs`.
    pub fn embed(&self, ids_bs: &Tensor) -> Result<Tensor> {
        self.arrival.wait_for("embed_tokens")?;
        let embed_tokens = self.embed_tokens.as_ref();
        embed_tokens
            .ok_or_else(|| EngineError::Bug("this section of the model embeds nothing".into()))?
            .forward(ids_bs)
    }

    /// From embeddings `[b, s, h]` to what the layers take: each rank's part of `s` with sequence parallelism.
    pub fn enter(&self, embeds_bsh: &Tensor) -> Result<Tensor> {
        self.region.scatter(embeds_bsh)
    }

    /// The layers over rows of `s` positions, and the final norm where the section has it. Hidden states are `[b, s, h]`,
    /// each rank's part of `s` with sequence parallelism.
    pub fn forward(&self, hidden_bsh: &Tensor, s: i64, segments: &Segments) -> Result<Tensor> {
        let (kind, device) = (hidden_bsh.kind(), hidden_bsh.device());
        let places = Places {
            rope: Rope::new(&segments.positions(s), self.head_dim, self.rope_theta, kind, device),
            segments: segments.clone(),
        };
        self.finish(self.layers.forward(hidden_bsh, &places)?)
    }

    fn finish(&self, x_bsh: Tensor) -> Result<Tensor> {
        let Some(norm) = &self.norm else { return Ok(x_bsh) };
        self.arrival.wait_for("norm")?;
        Ok(norm.forward(&x_bsh))
    }

    /// An empty memory for [`Self::decode`].
    pub fn decoding(&self) -> Decoding {
        Decoding {
            caches: (0..self.layers.len()).map(|_| KvCache::default()).collect(),
        }
    }

    /// As [`Self::forward`] for one sequence, behind the positions that `decoding` remembers: the whole
    /// prompt first, then one position at a time.
    pub fn decode(&self, embeds_bsh: &Tensor, decoding: &mut Decoding) -> Result<Tensor> {
        let (first, s) = (decoding.caches.first().map_or(0, KvCache::len), embeds_bsh.size()[1]);
        let positions: Vec<_> = (first..first + s).collect();
        let places = Places {
            rope: Rope::new(&[positions], self.head_dim, self.rope_theta, embeds_bsh.kind(), embeds_bsh.device()),
            segments: Segments::rows(&[s as usize]),
        };
        let layers = &self.layers;
        self.finish(layers.forward_each(embeds_bsh, &mut decoding.caches, |layer, x_bsh, cache| {
            layer.run(x_bsh, &places, Some(cache))
        })?)
    }
}

/// Where the hidden states of a pass stand.
#[derive(Debug, Clone)]
struct Places {
    rope: Rope,
    segments: Segments,
}

#[derive(Debug)]
struct Layer {
    input_norm: RmsNorm,
    qkv: ColumnLinears<3>,
    o: Linear,
    post_attention_norm: RmsNorm,
    mlp: Recomputed<Mlp>,
    causal: Arc<dyn CausalAttention>,
    head_dim: i64,
}

impl Layer {
    fn new(config: &TextConfig, build: &Build<'_>) -> Result<Self> {
        Ok(Self {
            input_norm: build.rms_norm("input_layernorm", config.rms_norm_eps)?,
            qkv: build.column_linears(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"])?,
            o: build.linear("self_attn.o_proj")?,
            post_attention_norm: build.rms_norm("post_attention_layernorm", config.rms_norm_eps)?,
            mlp: build.recomputed(RecomputeModule::Mlp, "mlp", Mlp::new(&build.at("mlp"))?),
            causal: build.attention(),
            head_dim: config.head_dim() as i64,
        })
    }

    fn run(&self, x_bsh: &Tensor, places: &Places, cache: Option<&mut KvCache>) -> Result<Tensor> {
        let x_bsh = x_bsh + self.attention(&self.input_norm.forward(x_bsh), places, cache)?;
        Ok(&x_bsh + self.mlp.forward(&self.post_attention_norm.forward(&x_bsh), &())?)
    }

    fn attention(&self, x_bsh: &Tensor, Places { rope, segments }: &Places, cache: Option<&mut KvCache>) -> Result<Tensor> {
        let heads = |y_bsh: &Tensor| {
            let size = y_bsh.size();
            y_bsh.view([size[0], size[1], -1, self.head_dim]).transpose(1, 2)
        };
        let [q, k, v] = self.qkv.forward(x_bsh)?;
        let (q, k, v) = (rope.apply(&heads(&q)), rope.apply(&heads(&k)), heads(&v));
        let o_bsh = match cache {
            Some(cache) => {
                let (k, v) = cache.extend(k, v);
                attend(&q, &k, &v, Some(segments))
            }
            None => self.causal.attend(&q, &k, &v, segments)?,
        };
        self.o.forward(&o_bsh)
    }
}

impl Block for Layer {
    type With = Places;

    fn forward(&self, x_bsh: &Tensor, places: &Places) -> Result<Tensor> {
        self.run(x_bsh, places, None)
    }
}

/// SwiGLU (arXiv:2002.05202).
#[derive(Debug)]
struct Mlp {
    gate_up: ColumnLinears<2>,
    down: Linear,
}

impl Mlp {
    fn new(build: &Build<'_>) -> Result<Self> {
        Ok(Self {
            gate_up: build.column_linears(["gate_proj", "up_proj"])?,
            down: build.linear("down_proj")?,
        })
    }
}

impl Block for Mlp {
    type With = ();

    fn forward(&self, x_bsh: &Tensor, (): &()) -> Result<Tensor> {
        let [gate_bsf, up_bsf] = self.gate_up.forward(x_bsh)?;
        self.down.forward(&(gate_bsf.silu() * up_bsf))
    }
}
