//! Settings of FP8.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Largest margin: with a larger one all of a tensor's values would be subnormal in E4M3 (448 / 2^15 < 2^-6).
pub const MAX_FP8_MARGIN: u32 = 14;
/// Largest length of an amax history.
pub const MAX_FP8_AMAX_HISTORY: u32 = 1 << 16;

/// FP8 formats of GEMM operands: Megatron's `fp8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Fp8Format {
    /// E4M3 for weights and activations, E5M2 for gradients of outputs (arXiv:2209.05433).
    Hybrid,
    /// E4M3 for all operands.
    E4m3,
}

/// Scaling of FP8 tensors: Megatron's `fp8_recipe`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Fp8Recipe {
    /// One scale for each tensor, from the amax of earlier steps.
    Delayed,
    /// One scale for each tensor, from its own amax.
    Tensorwise,
    /// One scale for each 128x128 block of a weight and each 1x128 block of an activation or gradient.
    Blockwise,
    /// One scale for each 32 values along the dim that a product sums over (OCP Microscaling Formats, MXFP8).
    Mxfp8,
}

impl Fp8Recipe {
    /// Returns the name of a recipe that scales blocks of a tensor; `None` with one scale for each tensor.
    pub fn of_blocks(self) -> Option<&'static str> {
        match self {
            Self::Delayed | Self::Tensorwise => None,
            Self::Blockwise => Some("blockwise"),
            Self::Mxfp8 => Some("mxfp8"),
        }
    }
}

/// Amax that a delayed scale is computed from: Megatron's `fp8_amax_compute_algo`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fp8AmaxComputeAlgo {
    /// The largest of the history.
    Max,
    /// The most recent one.
    MostRecent,
}

/// Settings of FP8 as the engine reads them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fp8 {
    /// Formats of operands.
    pub format: Fp8Format,
    /// Scaling of tensors.
    pub recipe: Fp8Recipe,
    /// With `delayed`: scales are divided by 2 to this power.
    pub margin: u32,
    /// With `delayed`: number of steps between scale updates.
    pub interval: u64,
    /// With `delayed`: number of steps of the amax history.
    pub amax_history_len: u32,
    /// With `delayed`: amax that a scale is computed from.
    pub amax_compute_algo: Fp8AmaxComputeAlgo,
    /// Computes weight gradients from FP8 operands.
    pub wgrad: bool,
    /// Gathers weights in FP8.
    pub param_gather: bool,
    /// Number of first language model layers in bf16.
    pub layers_at_start_in_bf16: u32,
    /// Number of last language model layers in bf16.
    pub layers_at_end_in_bf16: u32,
    /// Computes FP8 where the hardware has none.
    pub emulate: bool,
    /// Computes the vision encoder's linears in FP8, too.
    pub vision_model: bool,
    /// Computes the projector's linears in FP8, too.
    pub vision_projection: bool,
}

impl Fp8 {
    /// Returns true if the linears of layer `layer` of `num_layers` of the language model are computed in FP8.
    pub fn covers_layer(&self, layer: usize, num_layers: usize) -> bool {
        let end = num_layers.saturating_sub(self.layers_at_end_in_bf16 as usize);
        (self.layers_at_start_in_bf16 as usize..end).contains(&layer)
    }
}
