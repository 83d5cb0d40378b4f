//! What is measured: of a training step, and of a validation.

use serde::Serialize;

/// A training step; a line of `metrics.jsonl`, in NeMo's names.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepMetrics {
    /// Optimizer step, from 0.
    pub step: u64,
    /// Mean cross entropy of the global batch.
    pub reduced_train_loss: f64,
    /// Learning rate.
    pub lr: f64,
    /// Global L2 norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Samples trained on so far, this step's included.
    pub consumed_samples: u64,
    /// Wall time of the step.
    #[serde(rename = "train_step_timing in s")]
    pub seconds: f64,
    /// Positions trained on per second, padding left out, over all ranks.
    #[serde(rename = "tokens/s")]
    pub tokens_per_second: f64,
    /// Labelled tokens of the step.
    pub label_tokens: u64,
    /// Samples of the step without any label.
    pub zero_label_samples: u64,
    /// Micro-batches of the step without any picture.
    pub text_only_microbatches: u64,
    /// Steps so far that changed nothing because the loss or the gradient was not finite.
    pub skipped_steps: u64,
    /// Most memory that the first rank has held, in GiB.
    pub peak_memory_gib: f64,
}

/// A validation; a line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ValidationMetrics {
    /// The step after which it ran, from 0.
    pub step: u64,
    /// Mean cross entropy over all labelled tokens.
    pub val_loss: f64,
    /// Labelled tokens.
    pub val_label_tokens: u64,
    /// Samples.
    pub val_samples: u64,
    /// Wall time.
    #[serde(rename = "validation_timing in s")]
    pub seconds: f64,
}

impl StepMetrics {
    /// Names and values of what is drawn as a curve.
    pub fn scalars(&self) -> [(&'static str, f64); 9] {
        [
            ("reduced_train_loss", self.reduced_train_loss),
            ("lr", self.lr),
            ("grad_norm", self.grad_norm),
            ("consumed_samples", self.consumed_samples as f64),
            ("train_step_timing in s", self.seconds),
            ("tokens/s", self.tokens_per_second),
            ("label_tokens", self.label_tokens as f64),
            ("skipped_steps", self.skipped_steps as f64),
            ("peak_memory_gib", self.peak_memory_gib),
        ]
    }
}

impl ValidationMetrics {
    /// Names and values of what is drawn as a curve.
    pub fn scalars(&self) -> [(&'static str, f64); 2] {
        [("val_loss", self.val_loss), ("validation_timing in s", self.seconds)]
    }
}
