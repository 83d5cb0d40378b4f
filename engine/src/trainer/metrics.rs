//! What a step leaves behind: a line in `metrics.jsonl`, and one for the reader.

use super::step::StepReport;
use crate::error::{EngineError, Result};
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// One line of `metrics.jsonl`; NeMo's names.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Metrics {
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
}

impl Metrics {
    /// Joins what a step did with when and how.
    pub fn new(step: u64, report: &StepReport, lr: f64, consumed_samples: u64, seconds: f64) -> Self {
        Self {
            step,
            reduced_train_loss: report.loss,
            lr,
            grad_norm: report.grad_norm,
            consumed_samples,
            seconds,
            tokens_per_second: report.tokens as f64 / seconds.max(1e-9),
            label_tokens: report.labels,
            zero_label_samples: report.zero_label_samples,
            text_only_microbatches: report.text_only_microbatches,
        }
    }
}

/// `metrics.jsonl`, one writer.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    file: File,
}

impl MetricsFile {
    /// Opens the file for appending.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(EngineError::io("open", path))?;
        Ok(Self {
            path: path.to_owned(),
            file,
        })
    }

    /// Appends a line, in one write: a reader never sees half of one.
    ///
    /// # Errors
    /// The disk is full.
    pub fn append(&mut self, metrics: &Metrics) -> Result<()> {
        let mut line = serde_json::to_vec(metrics).map_err(|error| EngineError::Bug(error.to_string()))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(EngineError::io("write", &self.path))
    }
}
