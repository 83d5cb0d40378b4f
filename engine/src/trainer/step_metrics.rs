//! Metrics of a training step, and the latest metrics of a run.

use super::step::StepReport;
use crate::checkpoint::RunProgress;
use neva_track::StepMetrics;
use std::time::{Duration, Instant};

/// Records a metric. A missing or non-finite value removes the older one, and is never compared.
pub(super) fn record(progress: &mut RunProgress, name: &str, value: Option<f64>) {
    match value.filter(|value| value.is_finite()) {
        Some(value) => drop(progress.metrics.insert(name.to_owned(), value)),
        None => drop(progress.metrics.remove(name)),
    }
}

/// Returns the metrics of a step that began at `started` and waited for its data.
pub(super) fn step_metrics(
    step: u64,
    done: &StepReport,
    lr: f64,
    progress: &RunProgress,
    (started, waited): (Instant, Duration),
) -> StepMetrics {
    let seconds = started.elapsed().as_secs_f64();
    StepMetrics {
        step,
        reduced_train_loss: done.loss,
        lr,
        grad_norm: done.grad_norm,
        consumed_samples: progress.consumed_samples,
        seconds,
        tokens_per_second: done.tokens as f64 / seconds.max(1e-9),
        images_per_second: (done.images > 0).then(|| done.images as f64 / seconds.max(1e-9)),
        data_wait: waited.as_secs_f64(),
        row_fill: done.tokens as f64 / done.positions.max(1) as f64,
        samples: done.samples,
        label_tokens: done.labels,
        zero_label_samples: done.zero_label_samples,
        text_only_microbatches: done.text_only_microbatches,
        skipped_steps: progress.skipped_steps,
        loss_scale: done.loss_scale,
        peak_memory_gib: super::memory::peak_gib(),
    }
}
