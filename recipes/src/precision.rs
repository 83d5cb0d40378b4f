//! Precision recipes of NeMo (`nemo.collections.llm.recipes.precision.mixed_precision`), by name in `finetune.trainer.plugins`.
//!
//! Where NeMo sets `params_dtype` and `pipeline_dtype` to the data type of `precision`, these leave them `null`, which means
//! the same: an override of `precision` then needs no second one.

use neva_schemas::{Fp8AmaxComputeAlgo, Fp8Format, Fp8Recipe, MixedPrecision, Precision};

/// A precision recipe, by its name.
#[derive(Debug, Clone, Copy)]
pub struct PrecisionEntry {
    /// Name; NeMo's, or Megatron Bridge's.
    pub name: &'static str,
    /// The plugin.
    pub plugin: fn() -> MixedPrecision,
}

const fn entry(name: &'static str, plugin: fn() -> MixedPrecision) -> PrecisionEntry {
    PrecisionEntry { name, plugin }
}

/// All precision recipes. Those that combine FP8 with fp16 are refused with the reason when a run is checked.
pub const PRECISIONS: &[PrecisionEntry] = &[
    entry("bf16_mixed", bf16_mixed),
    entry("fp16_mixed", fp16_mixed),
    entry("bf16_with_fp8_mixed", || delayed(bf16_mixed())),
    entry("fp16_with_fp8_mixed", || delayed(fp16_mixed())),
    entry("bf16_with_fp8_delayed_scaling_mixed", || delayed(bf16_mixed())),
    entry("fp16_with_fp8_delayed_scaling_mixed", || delayed(fp16_mixed())),
    entry("bf16_with_fp8_current_scaling_mixed", || current(bf16_mixed(), 1)),
    entry("fp16_with_fp8_current_scaling_mixed", || current(fp16_mixed(), 1)),
    entry("nemotron_h_bf16_with_fp8_current_scaling_mixed", || current(bf16_mixed(), 2)),
    entry("bf16_with_fp8_subchannel_scaling_mixed", || subchannel(bf16_mixed())),
    entry("fp16_with_fp8_subchannel_scaling_mixed", || subchannel(fp16_mixed())),
    entry("bf16_with_mxfp8_mixed", || mxfp8(bf16_mixed())),
    entry("fp16_with_mxfp8_mixed", || mxfp8(fp16_mixed())),
];

/// Returns bf16 weights and activations with fp32 master weights.
pub fn bf16_mixed() -> MixedPrecision {
    MixedPrecision {
        precision: Precision::Bf16Mixed,
        ..MixedPrecision::default()
    }
}

/// Returns fp16 weights and activations with fp32 master weights, a dynamic loss scale, and gradients that are sent in fp16.
pub fn fp16_mixed() -> MixedPrecision {
    MixedPrecision {
        precision: Precision::Fp16Mixed,
        grad_reduce_in_fp32: false,
        ..MixedPrecision::default()
    }
}

/// Adds FP8 with delayed scaling: the largest amax of 1,024 steps.
fn delayed(plugin: MixedPrecision) -> MixedPrecision {
    MixedPrecision {
        fp8: Some(Fp8Format::Hybrid),
        fp8_recipe: Fp8Recipe::Delayed,
        fp8_margin: 0,
        fp8_amax_history_len: 1024,
        fp8_amax_compute_algo: Fp8AmaxComputeAlgo::Max,
        fp8_param_gather: Some(true),
        ..plugin
    }
}

/// Adds FP8 with a scale from each tensor's own amax; `edges` first and last layers stay in the data type of `plugin`.
fn current(plugin: MixedPrecision, edges: u32) -> MixedPrecision {
    MixedPrecision {
        fp8: Some(Fp8Format::Hybrid),
        fp8_recipe: Fp8Recipe::Tensorwise,
        first_last_layers_bf16: true,
        num_layers_at_start_in_bf16: edges,
        num_layers_at_end_in_bf16: edges,
        fp8_param_gather: Some(true),
        ..plugin
    }
}

/// Adds FP8 with a scale for each block.
fn subchannel(plugin: MixedPrecision) -> MixedPrecision {
    MixedPrecision {
        fp8: Some(Fp8Format::Hybrid),
        fp8_recipe: Fp8Recipe::Blockwise,
        fp8_param_gather: Some(false),
        ..plugin
    }
}

/// Adds FP8 with a scale for each 32 values.
fn mxfp8(plugin: MixedPrecision) -> MixedPrecision {
    MixedPrecision {
        fp8: Some(Fp8Format::Hybrid),
        fp8_recipe: Fp8Recipe::Mxfp8,
        fp8_param_gather: Some(false),
        ..plugin
    }
}
