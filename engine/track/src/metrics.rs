//! Metrics of training steps and validations.

use serde::Serialize;

/// Metrics of a training step: a line of `metrics.jsonl`, with NeMo's names.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepMetrics {
    /// Optimizer step, from 0.
    pub step: u64,
    /// Mean cross entropy over the labelled tokens of the global batch; `None` if it has none.
    pub reduced_train_loss: Option<f64>,
    /// Learning rate.
    pub lr: f64,
    /// Global L2 norm of the gradient before clipping; `None` without a loss.
    pub grad_norm: Option<f64>,
    /// Number of samples trained on, including this step.
    pub consumed_samples: u64,
    /// Wall time of the step.
    #[serde(rename = "train_step_timing in s")]
    pub seconds: f64,
    /// Positions trained on per second without padding, over all ranks.
    #[serde(rename = "tokens/s")]
    pub tokens_per_second: f64,
    /// Images trained on per second, over all ranks; `None` without images.
    #[serde(rename = "images/s", skip_serializing_if = "Option::is_none")]
    pub images_per_second: Option<f64>,
    /// Time in which the first rank waited for its data.
    #[serde(rename = "data_wait in s")]
    pub data_wait: f64,
    /// Share of the positions of all rows that hold a token or an image feature.
    pub row_fill: f64,
    /// Number of samples in the step; a packed row has several.
    pub samples: u64,
    /// Number of labelled tokens in the step.
    pub label_tokens: u64,
    /// Number of samples without any label in the step.
    pub zero_label_samples: u64,
    /// Number of microbatches without any image in the step.
    pub text_only_microbatches: u64,
    /// Number of steps so far that were skipped because the loss or the gradient was not finite.
    pub skipped_steps: u64,
    /// Loss scale of the step; only with `precision: 16-mixed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<f64>,
    /// Peak memory of the first rank, in GiB.
    pub peak_memory_gib: f64,
}

/// Metrics of a validation: a line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ValidationMetrics {
    /// The step after which it ran, from 0.
    pub step: u64,
    /// Mean cross entropy over all labelled tokens; `None` if there are none.
    pub val_loss: Option<f64>,
    /// Number of labelled tokens.
    pub val_label_tokens: u64,
    /// Number of samples.
    pub val_samples: u64,
    /// Wall time.
    #[serde(rename = "validation_timing in s")]
    pub seconds: f64,
}

impl StepMetrics {
    /// Returns names and values of the metrics for curves, without those that were not measured.
    pub fn scalars(&self) -> Vec<(&'static str, f64)> {
        present([
            ("reduced_train_loss", self.reduced_train_loss),
            ("lr", Some(self.lr)),
            ("grad_norm", self.grad_norm),
            ("consumed_samples", Some(self.consumed_samples as f64)),
            ("train_step_timing in s", Some(self.seconds)),
            ("tokens/s", Some(self.tokens_per_second)),
            ("images/s", self.images_per_second),
            ("data_wait in s", Some(self.data_wait)),
            ("row_fill", Some(self.row_fill)),
            ("label_tokens", Some(self.label_tokens as f64)),
            ("skipped_steps", Some(self.skipped_steps as f64)),
            ("loss_scale", self.loss_scale),
            ("peak_memory_gib", Some(self.peak_memory_gib)),
        ])
    }
}

impl ValidationMetrics {
    /// Returns names and values of the metrics for curves, without those that were not measured.
    pub fn scalars(&self) -> Vec<(&'static str, f64)> {
        present([("val_loss", self.val_loss), ("validation_timing in s", Some(self.seconds))])
    }
}

fn present<const N: usize>(values: [(&'static str, Option<f64>); N]) -> Vec<(&'static str, f64)> {
    values.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}
