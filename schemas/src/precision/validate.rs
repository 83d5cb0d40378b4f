//! Validation of the mixed precision plugin: what cannot be done is refused with what can.

use super::fp8_rules::validate_fp8;
use super::report::Report;
use super::{MixedPrecision, Precision};
use crate::validate::{Problem, nonzero};

/// Appends the problems of `plugin` by itself.
pub(crate) fn validate_precision(path: &str, plugin: &MixedPrecision, problems: &mut Vec<Problem>) {
    nonzero(
        path,
        problems,
        &[
            ("fp8_interval", plugin.fp8_interval),
            ("fp8_amax_history_len", plugin.fp8_amax_history_len.into()),
            ("fp16_loss_scale_window", plugin.fp16_loss_scale_window),
            ("fp16_hysteresis", plugin.fp16_hysteresis.into()),
        ],
    );
    let mut report = Report { path, problems };
    validate_dtypes(plugin, &mut report);
    validate_loss_scale(plugin, &mut report);
    validate_fp8(plugin, &mut report);
}

/// Refuses data types that differ from the precision's: each part of the model has one.
fn validate_dtypes(plugin: &MixedPrecision, report: &mut Report<'_>) {
    let (precision, dtype) = (plugin.precision.name(), plugin.precision.dtype());
    for (field, value, what) in [
        ("params_dtype", plugin.params_dtype, "weights"),
        ("pipeline_dtype", plugin.pipeline_dtype, "activations between pipeline stages"),
        ("autocast_dtype", plugin.autocast_dtype, "activations"),
    ] {
        let Some(value) = value.filter(|value| *value != dtype) else {
            continue;
        };
        let message = format!("`{field}` is {value}, but {what} are {dtype} with `precision: {precision}`");
        report.error(
            field,
            message,
            "remove it, or choose the `precision` of that type: 32, bf16-mixed or 16-mixed; master weights are always fp32",
        );
    }
    if plugin.autocast_enabled {
        let message = format!("autocast is not built: weights are stored in {dtype}, so all linears compute in it");
        match plugin.precision {
            Precision::Fp32 => report.error(
                "autocast_enabled",
                message,
                "set it to false, and `precision` to bf16-mixed for bfloat16",
            ),
            Precision::Bf16Mixed | Precision::Fp16Mixed => report.warning(
                "autocast_enabled",
                format!("has no effect: {message}; norms, softmax and loss compute in fp32 inside, as with autocast"),
                "set it to false",
            ),
        }
    }
}

/// Validates the loss scale of fp16.
fn validate_loss_scale(plugin: &MixedPrecision, report: &mut Report<'_>) {
    let standard = MixedPrecision::default();
    let scales = [
        ("fp16_loss_scale", plugin.fp16_loss_scale, None),
        (
            "fp16_initial_loss_scale",
            Some(plugin.fp16_initial_loss_scale),
            Some(standard.fp16_initial_loss_scale),
        ),
        (
            "fp16_min_loss_scale",
            Some(plugin.fp16_min_loss_scale),
            Some(standard.fp16_min_loss_scale),
        ),
    ];
    for (field, value, _) in scales {
        // A scale is a factor in fp32.
        if let Some(value) = value.filter(|value| !(*value > 0.0 && *value <= f64::from(f32::MAX) && (*value as f32) > 0.0)) {
            let message = format!("`{field}` is {value:?}, it must be above 0 and a finite number of fp32");
            report.error(field, message, "use a power of 2, such as 65536");
        }
    }
    if plugin.fp16_min_loss_scale > plugin.fp16_initial_loss_scale {
        let message = format!(
            "`fp16_min_loss_scale` {:?} exceeds `fp16_initial_loss_scale` {:?}",
            plugin.fp16_min_loss_scale, plugin.fp16_initial_loss_scale
        );
        report.error("fp16_min_loss_scale", message, "use 1.0");
    }
    if plugin.precision != Precision::Fp16Mixed {
        let others = [
            (
                "fp16_loss_scale_window",
                plugin.fp16_loss_scale_window != standard.fp16_loss_scale_window,
            ),
            ("fp16_hysteresis", plugin.fp16_hysteresis != standard.fp16_hysteresis),
        ];
        for (field, _) in (scales.iter().map(|(field, value, standard)| (*field, value != standard)))
            .chain(others)
            .filter(|(_, set)| *set)
        {
            report.without_effect(field, "precision=16-mixed");
        }
    }
}
