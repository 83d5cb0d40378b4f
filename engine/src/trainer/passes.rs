//! Forward and backward passes of a pipeline stage, for training and for validation.

use super::loaded::{Chunk, LoadedModel};
use super::microbatch::Microbatch;
use crate::comm::{Axis, Mesh};
use crate::error::{EngineError, Result};
use crate::nn::OutputPositions;
use crate::optim::Gradients;
use crate::parallel::{SavedActivation, StageWork};
use crate::precision::compute_kind;
use crate::profile::phase;
use crate::profiler::{Details, Profiler};
use neva_schemas::Finetune;
use tch::{Device, Kind, Tensor};

/// Shape and data type of the hidden states between two model chunks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Boundary {
    /// Shards of each sequence: the tensor-parallel size with sequence parallelism, else 1.
    sequence_shards: i64,
    hidden: i64,
    kind: Kind,
}

impl Boundary {
    pub(super) fn of(finetune: &Finetune, mesh: &Mesh) -> Self {
        let sequence_shards = if finetune.trainer.strategy.sequence_parallel {
            mesh.axis(Axis::Tensor).size() as i64
        } else {
            1
        };
        Self {
            sequence_shards,
            hidden: finetune.model.description().hidden_size() as i64,
            kind: compute_kind(finetune.trainer.precision()),
        }
    }

    fn of_batch(self, microbatch: &Microbatch) -> (Vec<i64>, Kind, Device) {
        let ids_bs = &microbatch.batch.input_ids_bs;
        let size = ids_bs.size();
        (
            vec![size[0], size[1] / self.sequence_shards, self.hidden],
            self.kind,
            ids_bs.device(),
        )
    }
}

/// Returns the summed cross entropy of a microbatch that has labels, on the last model chunk. `hidden` are its hidden states at
/// `outputs`.
fn loss_sum(chunk: &Chunk, hidden: &Tensor, outputs: &OutputPositions, microbatch: &Microbatch) -> Result<Option<Tensor>> {
    let Some(head) = &chunk.head else { return Ok(None) };
    let loss = head.loss_sum(hidden, &outputs.select(&microbatch.batch.labels_bs)?)?;
    loss.map(Some)
        .ok_or_else(|| EngineError::Bug("a microbatch without labels is skipped".into()))
}

/// Passes of a training step over the microbatches that have labels.
pub(super) struct Training<'a> {
    pub(super) model: &'a LoadedModel,
    pub(super) shape: Boundary,
    pub(super) gradients: &'a mut Gradients,
    pub(super) profiler: &'a Profiler,
    pub(super) microbatches: &'a [&'a Microbatch],
    /// Divisor of the loss of each microbatch.
    pub(super) denominators: Vec<f64>,
    pub(super) loss_sum: f64,
    pub(super) objective: f64,
    /// Factor of the differentiated loss.
    pub(super) loss_scale: f64,
}

impl StageWork for Training<'_> {
    fn boundary(&self, microbatch: usize) -> (Vec<i64>, Kind, Device) {
        self.shape.of_batch(self.microbatches[microbatch])
    }

    fn input_trained(&self, chunk: usize) -> bool {
        self.model.chunks[chunk].input_trained
    }

    fn output_trained(&self, chunk: usize) -> bool {
        self.model.chunks[chunk].output_trained
    }

    fn forward(&mut self, microbatch: usize, chunk: usize, input: Option<&Tensor>) -> Result<Tensor> {
        let _forward = self.profiler.span_of(phase::FORWARD, Details::Pass { microbatch, chunk });
        let (chunk, batch) = (&self.model.chunks[chunk], self.microbatches[microbatch]);
        let outputs = self.model.last_hidden_states.of(chunk.head.is_some(), &batch.batch);
        let forward = || chunk.model.forward_at(&batch.batch, input, &outputs);
        let hidden = self.model.with_sample_keys(batch.keys.as_ref(), &outputs, forward)?;
        let _loss = self.profiler.span("loss");
        let Some(loss) = loss_sum(chunk, &hidden, &outputs, batch)? else {
            return Ok(hidden);
        };
        let scaled = loss / self.denominators[microbatch];
        let value = scaled.double_value(&[]);
        self.objective += value;
        self.loss_sum += value * self.denominators[microbatch];
        // A factor of 1 would be a needless node.
        Ok(if self.loss_scale == 1.0 { scaled } else { scaled * self.loss_scale })
    }

    fn backward(
        &mut self,
        microbatch: usize,
        chunk: usize,
        kept: &SavedActivation,
        output_grad: Option<&Tensor>,
    ) -> Result<Option<Tensor>> {
        // A text-only microbatch does not reach a trained projector, for example.
        if !kept.output.requires_grad() {
            return Ok(None);
        }
        let _backward = self.profiler.span_of(phase::BACKWARD, Details::Pass { microbatch, chunk });
        let chunk = &self.model.chunks[chunk];
        let input = kept.input.as_ref().filter(|input| input.requires_grad());
        // Every schedule processes the microbatches of a model chunk in order.
        let last: &[usize] = if microbatch + 1 == self.microbatches.len() {
            &chunk.trained
        } else {
            &[]
        };
        let grad = self.gradients.backward(&kept.output, output_grad, input, last)?;
        Ok(input.map(|input| grad.unwrap_or_else(|| input.zeros_like())))
    }
}

/// Forward passes of a validation.
pub(super) struct Validation<'a> {
    pub(super) model: &'a LoadedModel,
    pub(super) shape: Boundary,
    pub(super) microbatches: &'a [&'a Microbatch],
    pub(super) loss_sum: f64,
}

impl StageWork for Validation<'_> {
    fn boundary(&self, microbatch: usize) -> (Vec<i64>, Kind, Device) {
        self.shape.of_batch(self.microbatches[microbatch])
    }

    fn input_trained(&self, _: usize) -> bool {
        false
    }

    fn output_trained(&self, _: usize) -> bool {
        false
    }

    fn forward(&mut self, microbatch: usize, chunk: usize, input: Option<&Tensor>) -> Result<Tensor> {
        let (chunk, batch) = (&self.model.chunks[chunk], self.microbatches[microbatch]);
        let outputs = self.model.last_hidden_states.of(chunk.head.is_some(), &batch.batch);
        let hidden = chunk.model.forward_at(&batch.batch, input, &outputs)?;
        if let Some(loss) = loss_sum(chunk, &hidden, &outputs, batch)? {
            self.loss_sum += loss.double_value(&[]);
        }
        Ok(hidden)
    }

    fn backward(&mut self, _: usize, _: usize, _: &SavedActivation, _: Option<&Tensor>) -> Result<Option<Tensor>> {
        Err(EngineError::Bug("a validation has no backward pass".into()))
    }
}
