//! What a pipeline stage computes: a training step's passes, and those of a validation.

use super::loaded::{Chunk, LoadedModel};
use super::step::Microbatch;
use crate::comm::{Axis, Mesh};
use crate::error::{EngineError, Result};
use crate::optim::{Gradients, Optimizer};
use crate::parallel::{Kept, StageWork};
use crate::precision::compute_kind;
use neva_schemas::Finetune;
use tch::{Device, Kind, Tensor};

/// What travels between two sections.
#[derive(Debug, Clone, Copy)]
pub(super) struct Boundary {
    /// Parts that each sequence is cut into.
    parts: i64,
    hidden: i64,
    kind: Kind,
}

impl Boundary {
    pub(super) fn of(finetune: &Finetune, mesh: &Mesh) -> Self {
        let parts = if finetune.trainer.strategy.sequence_parallel {
            mesh.axis(Axis::Tensor).size() as i64
        } else {
            1
        };
        Self {
            parts,
            hidden: finetune.model.llava().text_config.hidden_size as i64,
            kind: compute_kind(finetune.trainer.precision()),
        }
    }

    fn of_batch(self, microbatch: &Microbatch) -> (Vec<i64>, Kind, Device) {
        let ids_bs = &microbatch.batch.input_ids_bs;
        let size = ids_bs.size();
        (vec![size[0], size[1] / self.parts, self.hidden], self.kind, ids_bs.device())
    }
}

/// The sum of the cross entropy of a micro-batch that has labels.
fn loss_sum(chunk: &Chunk, hidden_bsh: &Tensor, microbatch: &Microbatch) -> Result<Option<Tensor>> {
    let Some(head) = &chunk.head else { return Ok(None) };
    let loss = head.loss_sum(hidden_bsh, &microbatch.batch.labels_bs)?;
    loss.map(Some)
        .ok_or_else(|| EngineError::Bug("a micro-batch without labels is left out".into()))
}

/// A training step's passes over the micro-batches that have labels.
pub(super) struct Training<'a> {
    pub(super) model: &'a LoadedModel,
    pub(super) shape: Boundary,
    pub(super) gradients: &'a mut Gradients,
    pub(super) optimizer: &'a Optimizer,
    pub(super) microbatches: &'a [&'a Microbatch],
    /// What the loss of each micro-batch is divided by.
    pub(super) denominators: Vec<f64>,
    pub(super) loss_sum: f64,
    pub(super) objective: f64,
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
        let (chunk, batch) = (&self.model.chunks[chunk], self.microbatches[microbatch]);
        let hidden_bsh = chunk.model.forward(&batch.batch, input)?;
        if chunk.head.is_some() {
            // Each layer has waited for its own weights.
            self.optimizer.settle()?;
        }
        let Some(loss) = loss_sum(chunk, &hidden_bsh, batch)? else {
            return Ok(hidden_bsh);
        };
        let scaled = loss / self.denominators[microbatch];
        let value = scaled.double_value(&[]);
        self.objective += value;
        self.loss_sum += value * self.denominators[microbatch];
        Ok(scaled)
    }

    fn backward(&mut self, microbatch: usize, chunk: usize, kept: &Kept, output_grad: Option<&Tensor>) -> Result<Option<Tensor>> {
        // A text-only micro-batch does not reach a trained projector, for example.
        if !kept.output.requires_grad() {
            return Ok(None);
        }
        let chunk = &self.model.chunks[chunk];
        let input = kept.input.as_ref().filter(|input| input.requires_grad());
        // Every schedule takes the micro-batches of a section in their order.
        let last: &[usize] = if microbatch + 1 == self.microbatches.len() {
            &chunk.trained
        } else {
            &[]
        };
        let grad = self.gradients.backward(&kept.output, output_grad, input, last)?;
        Ok(input.map(|input| grad.unwrap_or_else(|| input.zeros_like())))
    }
}

/// The forward passes of a validation.
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
        let hidden_bsh = chunk.model.forward(&batch.batch, input)?;
        if let Some(loss) = loss_sum(chunk, &hidden_bsh, batch)? {
            self.loss_sum += loss.double_value(&[]);
        }
        Ok(hidden_bsh)
    }

    fn backward(&mut self, _: usize, _: usize, _: &Kept, _: Option<&Tensor>) -> Result<Option<Tensor>> {
        Err(EngineError::Bug("a validation has no backward pass".into()))
    }
}
