//! Metrics for tests.

use neva_track::{StepMetrics, ValidationMetrics};

/// Returns a step whose values depend on its number.
pub(crate) fn step(step: u64) -> StepMetrics {
    StepMetrics {
        step,
        reduced_train_loss: Some(8.0 / (step + 1) as f64),
        lr: 0.0,
        grad_norm: Some(1.5),
        consumed_samples: 32 * (step + 1),
        seconds: 0.25,
        tokens_per_second: 4096.0,
        images_per_second: None,
        data_wait: 0.125,
        row_fill: 0.5,
        samples: 32,
        label_tokens: 100 + step,
        zero_label_samples: 0,
        text_only_microbatches: 0,
        skipped_steps: 0,
        loss_scale: None,
        peak_memory_gib: 2.5,
    }
}

/// Returns the validation after `step`.
pub(crate) fn validation(step: u64) -> ValidationMetrics {
    ValidationMetrics {
        step,
        val_loss: Some(4.0 + step as f64),
        val_label_tokens: 10,
        val_samples: 2,
        seconds: 0.5,
    }
}
