//! Table of a decoder, the same for every family: attention and MLP with a norm before each.

use super::family::DecoderNames;
use crate::parameter::{Cut, Init, LoraModule, ParamSpec, Part, PartialSum, Stage};
use neva_schemas::TextConfig;
use serde::Serialize;

/// Kind of a decoder's norms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum DecoderNorm {
    /// RMSNorm with a weight.
    Rms,
    /// LayerNorm with a bias; 1 is added to its weight.
    LayerNorm1p,
}

/// Structure of a decoder, from its family and config; sizes are not included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct DecoderStructure {
    /// Norms before attention and MLP, and after the last layer.
    pub norm: DecoderNorm,
    /// The MLP multiplies the activation by a second projection of its input.
    pub gated: bool,
    /// Query, key and value projections have biases.
    pub qkv_bias: bool,
    /// The output projection of attention has a bias.
    pub output_bias: bool,
    /// The linears of the MLP have biases.
    pub mlp_bias: bool,
}

/// One linear of a layer.
struct Linear {
    name: &'static str,
    shape: [usize; 2],
    init: Init,
    cut: Cut,
    heads: Option<usize>,
    bias: bool,
    /// Block and name of Megatron's module, and true if the module fuses several linears.
    megatron: (&'static str, &'static str, bool),
    /// Name of the linear in NeMo's canonical adapters.
    canonical: &'static str,
}

/// Returns all parameters of a decoder, in the order in which they are created and saved. Initial values are Megatron's:
/// projections into the residual stream are scaled by `1 / sqrt(2 layers)`.
pub(super) fn parameters(config: &TextConfig, structure: DecoderStructure, names: DecoderNames<'_>) -> Vec<ParamSpec> {
    let h = config.hidden_size;
    let normal = normal(config);
    let norm = |name: &str, stage: Stage| norm(structure.norm, name, h, stage);
    let body = names.body;
    let embedding = if config.tie_word_embeddings {
        Stage::FirstAndLast
    } else {
        Stage::First
    };

    let mut rows = vec![row(embed_tokens(names), &[config.vocab_size, h], normal, Cut::Vocab, embedding)];
    for layer in 0..config.num_hidden_layers {
        let stage = Stage::Layer(layer);
        let prefix = format!("{body}.layers.{layer}");
        let megatron = format!("{}.layers.{layer}", names.megatron);
        let linear = |linear: Linear| linear.rows(&prefix, &megatron, stage);
        rows.extend(norm(&format!("{prefix}.input_layernorm"), stage));
        rows.extend(attention(config, structure).into_iter().flat_map(linear));
        rows.extend(norm(&format!("{prefix}.post_attention_layernorm"), stage));
        rows.extend(mlp(config, structure).into_iter().flat_map(linear));
    }
    rows.extend(norm(&format!("{body}.norm"), Stage::Last));
    if !config.tie_word_embeddings {
        rows.push(row(
            head_weight(config, names),
            &[config.vocab_size, h],
            normal,
            Cut::Vocab,
            Stage::Last,
        ));
    }
    rows
}

/// Returns the full name of the weight `[vocabulary, hidden]` that computes logits from hidden states.
pub(super) fn head_weight(config: &TextConfig, names: DecoderNames<'_>) -> String {
    if config.tie_word_embeddings {
        embed_tokens(names)
    } else {
        format!("{}.weight", names.head)
    }
}

fn embed_tokens(names: DecoderNames<'_>) -> String {
    format!("{}.embed_tokens.weight", names.body)
}

fn normal(config: &TextConfig) -> Init {
    Init::Normal {
        std: config.initializer_range,
    }
}

fn row(name: String, shape: &[usize], init: Init, cut: Cut, stage: Stage) -> ParamSpec {
    ParamSpec {
        name,
        shape: shape.to_vec(),
        init,
        cut,
        heads: None,
        stage,
        part: Part::Language,
        adapts: None,
        lora: None,
        partial_sum: PartialSum::SequenceParallel.if_replicated(cut),
        used: true,
    }
}

fn norm(kind: DecoderNorm, name: &str, h: usize, stage: Stage) -> Vec<ParamSpec> {
    let parameter = |name: String, init: Init| row(name, &[h], init, Cut::Replicate, stage);
    match kind {
        DecoderNorm::Rms => vec![parameter(format!("{name}.weight"), Init::Ones)],
        DecoderNorm::LayerNorm1p => vec![
            parameter(format!("{name}.weight"), Init::Zeros),
            parameter(format!("{name}.bias"), Init::Zeros),
        ],
    }
}

impl Linear {
    /// Returns the rows of the weight and of the bias, if there is one.
    fn rows(self, prefix: &str, megatron: &str, stage: Stage) -> impl Iterator<Item = ParamSpec> {
        let name = format!("{prefix}.{}", self.name);
        let (megatron_block, module, fused) = self.megatron;
        let block = self.name.split('.').next().unwrap_or_default();
        let weight = ParamSpec {
            heads: self.heads,
            lora: Some(LoraModule {
                megatron: Some(format!("{megatron}.{megatron_block}.{module}")),
                canonical: Some(format!("{megatron}.{megatron_block}.{}", self.canonical)),
                saved_as: if fused {
                    format!("{prefix}.{block}.{module}")
                } else {
                    name.clone()
                },
                partial_sum: PartialSum::SequenceParallel,
                linear: name.clone(),
            }),
            ..row(format!("{name}.weight"), &self.shape, self.init, self.cut, stage)
        };
        let bias = self.bias.then(|| {
            // The bias of a row-parallel linear is added to the sum of all ranks.
            let cut = if self.cut == Cut::Row { Cut::Replicate } else { self.cut };
            ParamSpec {
                heads: self.heads,
                ..row(format!("{name}.bias"), &self.shape[..1], Init::Zeros, cut, stage)
            }
        });
        [Some(weight), bias].into_iter().flatten()
    }
}

/// Returns the linears of attention.
fn attention(config: &TextConfig, structure: DecoderStructure) -> [Linear; 4] {
    let (h, d) = (config.hidden_size, config.head_dim());
    let (q, kv) = (config.num_attention_heads * d, config.num_key_value_heads * d);
    let column = |name, canonical, rows, heads| Linear {
        name,
        canonical,
        shape: [rows, h],
        init: normal(config),
        cut: Cut::Column,
        heads,
        bias: structure.qkv_bias,
        megatron: ("self_attention", "linear_qkv", true),
    };
    let kv_heads = Some(config.num_key_value_heads);
    [
        column("self_attn.q_proj", "linear_q", q, None),
        column("self_attn.k_proj", "linear_k", kv, kv_heads),
        column("self_attn.v_proj", "linear_v", kv, kv_heads),
        Linear {
            name: "self_attn.o_proj",
            canonical: "linear_proj",
            shape: [h, q],
            init: residual(config),
            cut: Cut::Row,
            heads: None,
            bias: structure.output_bias,
            megatron: ("self_attention", "linear_proj", false),
        },
    ]
}

/// Returns the linears of the MLP.
fn mlp(config: &TextConfig, structure: DecoderStructure) -> Vec<Linear> {
    let (h, f) = (config.hidden_size, config.intermediate_size);
    let column = |name, canonical| Linear {
        name,
        canonical,
        shape: [f, h],
        init: normal(config),
        cut: Cut::Column,
        heads: None,
        bias: structure.mlp_bias,
        megatron: ("mlp", "linear_fc1", structure.gated),
    };
    let down = Linear {
        name: "mlp.down_proj",
        shape: [h, f],
        init: residual(config),
        cut: Cut::Row,
        megatron: ("mlp", "linear_fc2", false),
        ..column("", "linear_fc2")
    };
    let gate = structure.gated.then(|| column("mlp.gate_proj", "linear_fc1_gate"));
    gate.into_iter().chain([column("mlp.up_proj", "linear_fc1_up"), down]).collect()
}

fn residual(config: &TextConfig) -> Init {
    Init::Normal {
        std: config.initializer_range / (2.0 * config.num_hidden_layers as f64).sqrt(),
    }
}
