//! Activation recomputation.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Recompute granularity: Megatron's `recompute_granularity`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RecomputeGranularity {
    /// Recomputes whole layers of the language model and of the vision encoder; only the hidden states between layers are
    /// saved (arXiv:1604.06174).
    Full,
    /// Recomputes the submodules in `recompute_modules`, which use much memory for little computation
    /// (arXiv:2205.05198, section 5).
    Selective,
}

/// Recompute method for `recompute_granularity: full`: Megatron's `recompute_method`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RecomputeMethod {
    /// Recomputes all layers, in groups of `recompute_num_layers`.
    Uniform,
    /// Recomputes the first `recompute_num_layers` layers of each model chunk, one at a time.
    Block,
}

/// Submodule of a language model layer to recompute: one of Megatron's `recompute_modules`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RecomputeModule {
    /// Core attention: from queries, keys and values to the output of the heads.
    CoreAttn,
    /// The MLP, starting from the output of the norm.
    Mlp,
}
