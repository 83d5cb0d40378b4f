//! Batches of this rank: microbatches of training steps and of validations.

use super::batch::to_device;
use super::microbatch::Microbatch;
use super::step::Trainer;
use crate::comm::{Axis, Mesh};
use crate::error::{EngineError, Result};
use crate::parallel::zigzag;
use neva_data::{BatchSampler, Dataset, Loader, MergeOptions, SampleOrder, TruncationCounter, WithoutPixels};
use neva_layout::ZigZag;
use neva_schemas::{Finetune, Problem};
use std::sync::Arc;
use tch::Device;

/// Prepared batches that each data worker keeps ready.
const PREFETCH: usize = 2;

/// Returns the sampler that selects this rank's microbatches of each global batch.
pub fn batch_sampler(finetune: &Finetune, mesh: &Mesh) -> BatchSampler {
    let group = mesh.axis(Axis::Data);
    BatchSampler {
        global_batch_size: finetune.data.global_batch_size(),
        micro_batch_size: finetune.data.micro_batch_size(),
        data_parallel_size: group.size() as u64,
        data_parallel_rank: group.rank() as u64,
    }
}

/// Returns the options for merging samples into the rows of a microbatch.
pub fn merge_options(finetune: &Finetune) -> MergeOptions {
    MergeOptions {
        image_seq_len: finetune.model.description().image_seq_length(),
        max_length: finetune.data.seq_length(),
        row_multiple: finetune.trainer.strategy.sequence_multiple(),
        fixed_length: false,
        packed: finetune.data.use_packed_sequence(),
    }
}

/// Splits data into microbatches.
#[derive(Debug, Clone, Copy)]
pub(super) struct Batching {
    sampler: BatchSampler,
    options: MergeOptions,
    zigzag: ZigZag,
    /// True if this rank holds the vision encoder, which needs pixels.
    pixels: bool,
    workers: usize,
    device: Device,
    is_first: bool,
}

impl Batching {
    /// Creates the batching of a run on this rank.
    pub(super) fn of(finetune: &Finetune, trainer: &Trainer, device: Device) -> Result<Self> {
        let mesh = trainer.mesh();
        let sampler = batch_sampler(finetune, mesh);
        if let Some(problem) = sampler.problem() {
            return Err(EngineError::Run(vec![Problem::error("finetune.data.global_batch_size", problem)]));
        }
        Ok(Self {
            sampler,
            options: merge_options(finetune),
            zigzag: zigzag(mesh),
            pixels: trainer.needs_pixels(),
            workers: finetune.data.num_workers(),
            device,
            is_first: mesh.is_first(),
        })
    }

    /// Returns the dataset indices of the global batch after `consumed` samples.
    pub(super) fn global_batch(&self, order: &dyn SampleOrder, consumed: u64) -> Vec<u64> {
        self.sampler.global_batch(order, consumed)
    }

    /// Returns the number of global batches of a validation.
    pub(super) fn validation_batches(&self, samples: u64, limit: Option<u64>) -> u64 {
        self.sampler.num_batches(samples, limit)
    }

    /// Wraps the dataset to omit pixels if this rank does not need them.
    fn without_unused_pixels(&self, dataset: Arc<dyn Dataset>) -> Arc<dyn Dataset> {
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
            keys: None,
        };
        whole.keyed(batch).context_shard(self.zigzag)
    }
}

/// Endless training data, from a given position.
pub(super) struct TrainBatches {
    loader: Loader<neva_data::Batch>,
    batching: Batching,
    /// Counts truncated samples; the first rank warns.
    truncated: TruncationCounter,
}

impl TrainBatches {
    pub(super) fn start(batching: Batching, dataset: Arc<dyn Dataset>, order: Arc<dyn SampleOrder>, consumed: u64) -> Result<Self> {
        let Batching { sampler, options, .. } = batching;
        let dataset = batching.without_unused_pixels(dataset);
        let source = move |n| Some(neva_data::Batch::microbatch(&*dataset, &*order, &sampler, &options, consumed, n));
        Ok(Self {
            loader: Loader::new(source, batching.workers, PREFETCH)?,
            batching,
            truncated: TruncationCounter::new(options.max_length, options.row_multiple),
        })
    }

    /// Returns the microbatches of the next step.
    pub(super) fn next_step(&mut self) -> Result<Vec<Microbatch>> {
        (0..self.batching.sampler.num_microbatches())
            .map(|_| {
                let batch = self.loader.next();
                let batch = batch.ok_or_else(|| EngineError::Bug("the endless stream of batches ended".into()))??;
                if let Some(warning) = self
                    .truncated
                    .add(batch.tokens.num_labels.len(), &batch.truncated)
                    .filter(|_| self.batching.is_first)
                {
                    tracing::warn!("{warning}");
                }
                self.batching.microbatch(&batch)
            })
            .collect()
    }
}

/// Iterates over `(microbatch, samples)` of one validation on `dataset`. Omits microbatches without samples.
pub(super) fn validation_batches(
    batching: Batching,
    dataset: Arc<dyn Dataset>,
    limit: Option<u64>,
) -> Result<impl Iterator<Item = Result<(Microbatch, u64)>>> {
    let Batching { sampler, options, .. } = batching;
    let dataset = batching.without_unused_pixels(dataset);
    let source = move |n| {
        let indices = sampler.validation(dataset.len() as u64, limit, n)?;
        Some(neva_data::Batch::from_indices(&*dataset, &indices, &options))
    };
    let loader = Loader::new(source, batching.workers, PREFETCH)?;
    Ok(loader.filter_map(move |batch| match batch {
        Ok(None) => None,
        Ok(Some(batch)) => Some(
            batching
                .microbatch(&batch)
                .map(|microbatch| (microbatch, batch.samples.len() as u64)),
        ),
        Err(error) => Some(Err(error.into())),
    }))
}
