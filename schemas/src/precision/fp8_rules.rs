//! Validation of FP8: what cannot be done is refused with what can.

use super::report::Report;
use super::{Fp8AmaxComputeAlgo, Fp8Recipe, MAX_FP8_AMAX_HISTORY, MAX_FP8_MARGIN, MixedPrecision, Precision};
use crate::description::ModelDescription;
use crate::peft::Peft;
use crate::strategy::MegatronStrategy;
use crate::validate::Problem;

/// Validates FP8 by itself.
pub(super) fn validate_fp8(plugin: &MixedPrecision, report: &mut Report<'_>) {
    if let (Some(old), Some(new)) = (plugin.fp8_params, plugin.fp8_param_gather)
        && old != new
    {
        let message = format!("`fp8_params` is {old}, but `fp8_param_gather` is {new}: they are names of one setting");
        report.error("fp8_params", message, "remove `fp8_params`");
    }
    if plugin.fp8_margin > MAX_FP8_MARGIN {
        let message = format!(
            "`fp8_margin` is {}: E4M3 would hold every value as a subnormal, or as 0",
            plugin.fp8_margin
        );
        report.error(
            "fp8_margin",
            message,
            format!("use 0 to {MAX_FP8_MARGIN}; 0 is Transformer Engine's default"),
        );
    }
    if plugin.fp8_amax_history_len > MAX_FP8_AMAX_HISTORY {
        let message = format!("`fp8_amax_history_len` is {}", plugin.fp8_amax_history_len);
        report.error(
            "fp8_amax_history_len",
            message,
            format!("use 1 to {MAX_FP8_AMAX_HISTORY}, such as 1024"),
        );
    }
    for (field, set) in [
        ("fp8_dot_product_attention", plugin.fp8_dot_product_attention),
        ("fp8_multi_head_attention", plugin.fp8_multi_head_attention),
    ] {
        if set {
            let message = "libtorch has no attention in FP8: the attention core is computed in bf16";
            report.error(
                field,
                message,
                "set it to false; the linears of the attention are in FP8 all the same",
            );
        }
    }
    if plugin.reuse_grad_buf_for_mxfp8_param_ag {
        let message = "belongs to gathering weights in MXFP8: they are gathered in bf16";
        report.error("reuse_grad_buf_for_mxfp8_param_ag", message, "set it to false");
    }
    if plugin.fp8.is_none() {
        return validate_without_fp8(plugin, report);
    }
    if plugin.precision != Precision::Bf16Mixed {
        let message = format!(
            "`fp8` contradicts `precision: {}`: the products of FP8 operands are bfloat16",
            plugin.precision.name()
        );
        report.error("fp8", message, format!("set {}.precision=bf16-mixed, or fp8=null", report.path));
    }
    if let Some(name) = plugin.fp8_recipe.of_blocks()
        && plugin.param_gather()
    {
        let message =
            format!("weights with `fp8_recipe: {name}` cannot be gathered in FP8: a rank's shard of the optimizer cuts their blocks");
        report.error(
            "fp8_param_gather",
            message,
            "set it to false, or `fp8_recipe` to delayed or tensorwise",
        );
    }
    validate_edge_layers(plugin, report);
    if plugin.fp8_recipe != Fp8Recipe::Delayed {
        for (field, set) in delayed_settings(plugin) {
            if set {
                report.without_effect(field, "fp8_recipe=delayed");
            }
        }
    }
}

/// Validates the layers in bf16 at both ends.
fn validate_edge_layers(plugin: &MixedPrecision, report: &mut Report<'_>) {
    let (start, end) = (plugin.num_layers_at_start_in_bf16, plugin.num_layers_at_end_in_bf16);
    if plugin.first_last_layers_bf16 && plugin.fp8_recipe == Fp8Recipe::Delayed {
        let message = "first and last layers cannot stay in bf16 with `fp8_recipe: delayed`, as in NeMo";
        report.error(
            "first_last_layers_bf16",
            message,
            "set it to false, or `fp8_recipe` to tensorwise, blockwise or mxfp8",
        );
    } else if plugin.first_last_layers_bf16 && start == 0 && end == 0 {
        let message = "keeps no layer in bf16: `num_layers_at_start_in_bf16` and `num_layers_at_end_in_bf16` are both 0";
        report.error("first_last_layers_bf16", message, "set them to 1, or this to false");
    }
    if !plugin.first_last_layers_bf16 {
        for (field, layers) in [("num_layers_at_start_in_bf16", start), ("num_layers_at_end_in_bf16", end)] {
            if layers > 0 {
                report.without_effect(field, "first_last_layers_bf16=true");
            }
        }
    }
}

/// Returns the settings of delayed scaling, and whether each differs from its default.
fn delayed_settings(plugin: &MixedPrecision) -> [(&'static str, bool); 4] {
    [
        ("fp8_margin", plugin.fp8_margin != 0),
        ("fp8_interval", plugin.fp8_interval != 1),
        ("fp8_amax_history_len", plugin.fp8_amax_history_len != 1),
        (
            "fp8_amax_compute_algo",
            plugin.fp8_amax_compute_algo != Fp8AmaxComputeAlgo::MostRecent,
        ),
    ]
}

/// Reports settings of FP8 that have no effect without it.
fn validate_without_fp8(plugin: &MixedPrecision, report: &mut Report<'_>) {
    // An error, as in NeMo: the weights would not be what was asked for.
    for (field, value) in [("fp8_params", plugin.fp8_params), ("fp8_param_gather", plugin.fp8_param_gather)] {
        if value == Some(true) {
            report.error(
                field,
                "weights in FP8 need `fp8`",
                format!("set {}.fp8=hybrid, or remove it", report.path),
            );
        }
    }
    let others = [
        ("fp8_recipe", plugin.fp8_recipe != Fp8Recipe::Delayed),
        ("fp8_wgrad", !plugin.fp8_wgrad),
        ("first_last_layers_bf16", plugin.first_last_layers_bf16),
        ("num_layers_at_start_in_bf16", plugin.num_layers_at_start_in_bf16 > 0),
        ("num_layers_at_end_in_bf16", plugin.num_layers_at_end_in_bf16 > 0),
        ("fp8_emulate", plugin.fp8_emulate),
        ("fp8_vision_model", plugin.fp8_vision_model),
        ("fp8_vision_projection", plugin.fp8_vision_projection),
    ];
    for (field, set) in delayed_settings(plugin).into_iter().chain(others) {
        if set {
            report.without_effect(field, "fp8=hybrid");
        }
    }
}

/// Appends the problems of FP8 with a model, its adapters and its layout.
pub(crate) fn validate_fp8_model(
    plugin: &MixedPrecision,
    (model, peft, strategy): (&ModelDescription, Option<&Peft>, &MegatronStrategy),
    path: &str,
    problems: &mut Vec<Problem>,
) {
    let Some(fp8) = plugin.fp8() else { return };
    let at = format!("{path}.trainer.plugins");
    let mut report = Report { path: &at, problems };
    let Some(decoder) = &model.decoder else {
        report.error("fp8", "the model has no language model, whose linears FP8 is for", "set it to null");
        return;
    };
    let layers = decoder.config.num_hidden_layers;
    let edges = u64::from(fp8.layers_at_start_in_bf16) + u64::from(fp8.layers_at_end_in_bf16);
    if layers > 0 && edges >= layers as u64 {
        let message = format!(
            "no layer is left in FP8: {} first and {} last of {layers} layers are in bf16",
            fp8.layers_at_start_in_bf16, fp8.layers_at_end_in_bf16
        );
        report.error("num_layers_at_start_in_bf16", message, "use 1 and 1, or fp8=null");
    }
    if peft.is_some_and(|peft| peft.lora().quantization.is_some()) {
        let message = "`fp8` and the quantization of the frozen weights to NF4 exclude each other: a weight has one of the two";
        report.error("fp8", message, format!("set {path}.peft.quantization=null, or fp8=null"));
    }
    if fp8.param_gather && !strategy.ddp.use_distributed_optimizer {
        let message = "gathering weights in FP8 needs the distributed optimizer";
        report.error(
            "fp8_param_gather",
            message,
            format!("set {path}.trainer.strategy.ddp.use_distributed_optimizer=true, or this to false"),
        );
    }
}
