//! This rank's share of the data: micro-batches of training, step by step, and of a validation.

use super::batch::to_device;
use super::step::{Microbatch, Trainer};
use crate::comm::{Axis, Mesh};
use crate::error::{EngineError, Result};
use crate::parallel::zigzag;
use neva_data::{BatchSlice, Dataset, Loader, MergeOptions, Order, WithoutPixels};
use neva_layout::ZigZag;
use neva_schemas::{Finetune, Problem};
use std::sync::Arc;
use tch::Device;

/// Prepared batches that each data worker keeps ready.
const PREFETCH: usize = 2;

/// What a rank takes of each global batch.
pub fn batch_slice(finetune: &Finetune, mesh: &Mesh) -> BatchSlice {
    let group = mesh.axis(Axis::Data);
    BatchSlice {
        global_batch_size: finetune.data.global_batch_size(),
        micro_batch_size: finetune.data.micro_batch_size(),
        data_parallel_size: group.size() as u64,
        data_parallel_rank: group.rank() as u64,
    }
}

/// How samples become the rows of a micro-batch.
pub fn merge_options(finetune: &Finetune) -> MergeOptions {
    MergeOptions {
        image_seq_len: finetune.model.llava().image_seq_length(),
        max_length: finetune.data.seq_length(),
        row_multiple: finetune.trainer.strategy.sequence_multiple(),
        fixed_length: false,
        packed: finetune.data.use_packed_sequence(),
    }
}

/// How data is cut into micro-batches.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slicing {
    slice: BatchSlice,
    options: MergeOptions,
    zigzag: ZigZag,
    /// Pixels are needed: this rank holds the vision encoder.
    pixels: bool,
    workers: usize,
    device: Device,
}

impl Slicing {
    /// The slicing of a run on this rank.
    pub(super) fn of(finetune: &Finetune, trainer: &Trainer, device: Device) -> Result<Self> {
        let mesh = trainer.mesh();
        let slice = batch_slice(finetune, mesh);
        if let Some(problem) = slice.problem() {
            return Err(EngineError::Run(vec![Problem::error("finetune.data.global_batch_size", problem)]));
        }
        Ok(Self {
            slice,
            options: merge_options(finetune),
            zigzag: zigzag(mesh),
            pixels: trainer.sees_pictures(),
            workers: finetune.data.num_workers(),
            device,
        })
    }

    /// Dataset indices of the global batch after `consumed` samples.
    pub(super) fn global_batch(&self, order: &Order, consumed: u64) -> Vec<u64> {
        self.slice.global_batch(order, consumed)
    }

    /// Global batches of a validation.
    pub(super) fn validation_batches(&self, samples: u64, limit: Option<u64>) -> u64 {
        self.slice.num_batches(samples, limit)
    }

    /// The samples as this rank needs them.
    fn seen(&self, dataset: Arc<dyn Dataset>) -> Arc<dyn Dataset> {
        if self.pixels { dataset } else { Arc::new(WithoutPixels(dataset)) }
    }

    fn microbatch(&self, batch: &neva_data::Batch) -> Result<Microbatch> {
        let tokens = &batch.tokens;
        let whole = Microbatch {
            labels: tokens.total_labels() as u64,
            tokens: tokens.seq_lens().iter().sum::<usize>() as u64,
            zero_label_samples: tokens.num_labels.iter().filter(|labels| **labels == 0).count() as u64,
            text_only: tokens.images.is_empty(),
            batch: to_device(batch, self.options.image_seq_len, self.device)?,
        };
        whole.part(self.zigzag)
    }
}

/// Training data, endless, from a position on.
pub(super) struct TrainBatches {
    loader: Loader<neva_data::Batch>,
    slicing: Slicing,
}

impl TrainBatches {
    pub(super) fn start(slicing: Slicing, dataset: Arc<dyn Dataset>, order: Order, consumed: u64) -> Result<Self> {
        let Slicing { slice, options, .. } = slicing;
        let dataset = slicing.seen(dataset);
        let source = move |n| Some(neva_data::Batch::microbatch(&*dataset, &order, &slice, &options, consumed, n));
        Ok(Self {
            loader: Loader::new(source, slicing.workers, PREFETCH)?,
            slicing,
        })
    }

    /// The micro-batches of the next step.
    pub(super) fn next_step(&mut self) -> Result<Vec<Microbatch>> {
        (0..self.slicing.slice.num_microbatches())
            .map(|_| {
                let batch = self.loader.next();
                let batch = batch.ok_or_else(|| EngineError::Bug("the endless stream of batches ended".into()))??;
                self.slicing.microbatch(&batch)
            })
            .collect()
    }
}

/// The micro-batches of one validation over `dataset`, `(micro-batch, samples)` each; those without samples are
/// left out.
pub(super) fn validation_batches(
    slicing: Slicing,
    dataset: Arc<dyn Dataset>,
    limit: Option<u64>,
) -> Result<impl Iterator<Item = Result<(Microbatch, u64)>>> {
    let Slicing { slice, options, .. } = slicing;
    let dataset = slicing.seen(dataset);
    let source = move |n| {
        let indices = slice.validation(dataset.len() as u64, limit, n)?;
        Some(neva_data::Batch::of(&*dataset, &indices, &options))
    };
    let loader = Loader::new(source, slicing.workers, PREFETCH)?;
    Ok(loader.filter_map(move |batch| match batch {
        Ok(None) => None,
        Ok(Some(batch)) => Some(
            slicing
                .microbatch(&batch)
                .map(|microbatch| (microbatch, batch.samples.len() as u64)),
        ),
        Err(error) => Some(Err(error.into())),
    }))
}
