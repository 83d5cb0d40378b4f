//! FP8: arithmetic, knobs, layouts, recomputation and checkpoints.

mod gather;
mod layouts;
mod numbers;
mod reference;
mod resume;
mod runs;

use crate::setting::small;
use neva_schemas::{Finetune, Fp8, Fp8AmaxComputeAlgo, Fp8Format, Fp8Recipe, MixedPrecision, Plugins, Precision};

/// Returns Transformer Engine's default recipe, emulated.
fn settings() -> Fp8 {
    Fp8 {
        format: Fp8Format::Hybrid,
        recipe: Fp8Recipe::Delayed,
        margin: 0,
        interval: 1,
        amax_history_len: 1,
        amax_compute_algo: Fp8AmaxComputeAlgo::MostRecent,
        wgrad: true,
        param_gather: false,
        layers_at_start_in_bf16: 0,
        layers_at_end_in_bf16: 0,
        emulate: true,
        vision_model: false,
        vision_projection: false,
    }
}

/// Sets bf16 with emulated FP8, and changes the plugin.
fn in_fp8(finetune: &mut Finetune, change: impl FnOnce(&mut MixedPrecision)) {
    let mut plugin = MixedPrecision {
        precision: Precision::Bf16Mixed,
        fp8: Some(Fp8Format::Hybrid),
        fp8_emulate: true,
        ..MixedPrecision::default()
    };
    change(&mut plugin);
    finetune.trainer.plugins = Plugins::MixedPrecision(plugin);
}

/// Returns the small run in FP8.
fn small_fp8(change: impl FnOnce(&mut MixedPrecision)) -> Finetune {
    let mut finetune = small();
    in_fp8(&mut finetune, change);
    finetune
}

/// All recipes.
const RECIPES: [Fp8Recipe; 4] = [Fp8Recipe::Delayed, Fp8Recipe::Tensorwise, Fp8Recipe::Blockwise, Fp8Recipe::Mxfp8];
