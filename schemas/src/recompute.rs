//! What is computed again in the backward pass instead of being kept.

use crate::strategy::MegatronStrategy;
use crate::validate::{Problem, nonzero};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How much is computed again: Megatron's `recompute_granularity`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RecomputeGranularity {
    /// Whole layers of the language model and of the vision encoder: only the hidden state between them is kept
    /// (arXiv:1604.06174).
    Full,
    /// Parts of the language model's layers that take much memory for little computing (arXiv:2205.05198, section 5):
    /// those of `recompute_modules`.
    Selective,
}

/// Which layers are computed again with `recompute_granularity: full`: Megatron's `recompute_method`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RecomputeMethod {
    /// All of them, `recompute_num_layers` at a time.
    Uniform,
    /// The first `recompute_num_layers` of each chunk of a pipeline rank, one at a time.
    Block,
}

/// A part of a layer of the language model: one of Megatron's `recompute_modules`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RecomputeModule {
    /// From queries, keys and values to what the heads give.
    CoreAttn,
    /// The MLP, from the norm's output on.
    Mlp,
}

/// What is wrong with what `strategy` computes again.
pub(crate) fn validate_recompute(path: &str, strategy: &MegatronStrategy, problems: &mut Vec<Problem>) {
    let num_layers = strategy.recompute_num_layers.unwrap_or(1);
    nonzero(path, problems, &[("recompute_num_layers", num_layers.into())]);
    let granularity = strategy.recompute_granularity;
    let mut idle = |name: &str, wants: &str| {
        problems.push(
            Problem::warning(
                format!("{path}.{name}"),
                format!("does nothing without `recompute_granularity: {wants}`"),
            )
            .help(format!("set {path}.recompute_granularity={wants}, or leave it out")),
        );
    };
    if granularity != Some(RecomputeGranularity::Full) {
        if strategy.recompute_method.is_some() {
            idle("recompute_method", "full");
        }
        if strategy.recompute_num_layers.is_some() {
            idle("recompute_num_layers", "full");
        }
    }
    match &strategy.recompute_modules {
        Some(_) if granularity != Some(RecomputeGranularity::Selective) => idle("recompute_modules", "selective"),
        Some(modules) if modules.is_empty() => problems.push(
            Problem::error(format!("{path}.recompute_modules"), "names no module that could be computed again")
                .help("choose of core_attn and mlp, or leave it out for [core_attn]"),
        ),
        _ => {}
    }
}
