//! Evaluation of a model on validation data.

use super::microbatch::Microbatch;
use super::passes::Validation;
use super::step::Trainer;
use crate::comm::{Axis, Reduce, all_succeed, stages_succeed};
use crate::error::{EngineError, Result};
use neva_layout::forward_schedule;
use tch::Tensor;

/// Sums of a validation over all samples and data-parallel ranks.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Evaluation {
    /// Sum of the cross entropy over the labelled tokens.
    pub loss_sum: f64,
    /// Labelled tokens.
    pub labels: u64,
    /// Samples.
    pub samples: u64,
}

impl Evaluation {
    /// Returns the mean cross entropy over all labelled tokens, or `None` without labels.
    pub fn loss(&self) -> Option<f64> {
        (self.labels > 0).then(|| self.loss_sum / self.labels as f64)
    }
}

impl Trainer {
    /// Evaluates `(microbatch, samples)` of validation data without training. Every rank calls it, with its own
    /// microbatches, of which it may have none.
    ///
    /// # Errors
    /// A collective failed, or a rank could not read its data.
    pub fn evaluate(&self, microbatches: impl Iterator<Item = Result<(Microbatch, u64)>>) -> Result<Evaluation> {
        self.evaluate_together(microbatches)?
    }

    /// Evaluates like [`Self::evaluate`]. A rank's data error is the inner error, which all ranks return once all are done.
    pub(super) fn evaluate_together(&self, microbatches: impl Iterator<Item = Result<(Microbatch, u64)>>) -> Result<Result<Evaluation>> {
        let mut read = Ok(());
        self.optimizer.finish_param_gather()?;
        let mut sums = [0.0; 3];
        let mut rest = microbatches.peekable();
        // As many at once as keep the pipeline busy, and no more: their images take memory.
        let stages = self.loaded.stages.stages();
        let at_once = if stages == 1 { 1 } else { 4 * stages };
        while rest.peek().is_some() {
            // Only the stage with the vision encoder detects a damaged image.
            let batch = rest.by_ref().take(at_once).collect::<Result<Vec<_>>>();
            let batch = match stages_succeed(&self.mesh, batch) {
                Ok(batch) => batch,
                Err(error @ EngineError::Comm(_)) => return Err(error),
                // Other data-parallel ranks are notified once they are done: until then they run other collectives.
                Err(error) => {
                    read = Err(error);
                    break;
                }
            };
            for (microbatch, samples) in &batch {
                sums[1] += microbatch.labels as f64;
                sums[2] += *samples as f64;
            }
            let microbatches: Vec<_> = batch.iter().map(|(microbatch, _)| microbatch).filter(|it| it.labels > 0).collect();
            let (stage, chunks) = (self.pipeline.stage(), self.loaded.chunks.len());
            let actions = forward_schedule(stage, stages, chunks, microbatches.len());
            let mut pass = Validation {
                model: &self.loaded,
                shape: self.shape,
                microbatches: &microbatches,
                loss_sum: 0.0,
            };
            tch::no_grad(|| self.pipeline.run(&actions, &mut pass))?;
            sums[0] += pass.loss_sum;
        }
        let loss_sum = Tensor::from(sums[0]);
        let sums = Tensor::from_slice(&sums[1..]);
        self.sum_losses(&loss_sum)?;
        self.mesh.axis(Axis::Data).all_reduce(&sums, Reduce::Sum)?;
        let known = match all_succeed(&self.mesh, read) {
            Err(error @ EngineError::Comm(_)) => return Err(error),
            known => known,
        };
        Ok(known.map(|()| Evaluation {
            loss_sum: loss_sum.double_value(&[]),
            labels: sums.double_value(&[0]) as u64,
            samples: sums.double_value(&[1]) as u64,
        }))
    }
}
