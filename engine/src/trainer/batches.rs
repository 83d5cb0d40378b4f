//! Batches of this rank: microbatches of training steps and of validations.

use super::batch::to_device;
use super::microbatch::Microbatch;
use super::step::Trainer;
use crate::comm::{Axis, Mesh};
use crate::error::{EngineError, Result};
use crate::parallel::zigzag;
use crate::profiler::Profiler;
use neva_data::{BatchSampler, Dataset, Loader, MergeOptions, RowStream, TruncationCounter, WithoutPixels, validation_rows};
use neva_layout::ZigZag;
use neva_schemas::{Finetune, Problem};
use std::sync::Arc;
use tch::Device;

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
        max_length: finetune
            .data
            .packing()
            .map_or(finetune.data.seq_length(), |packing| packing.max_length),
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
    prefetch: usize,
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
            prefetch: finetune.data.prefetch(),
            device,
            is_first: mesh.is_first(),
        })
    }

    /// Returns the dataset indices of the global batch after `consumed` rows.
    pub(super) fn global_batch(&self, rows: &dyn RowStream, consumed: u64) -> Result<Vec<u64>> {
        let mut indices = Vec::new();
        for row in consumed..consumed + self.sampler.global_batch_size {
            indices.extend(rows.row(row)?.unwrap_or_default().samples.iter().map(|sample| sample.index));
        }
        Ok(indices)
    }

    /// Returns the device of the tensors.
    pub(super) fn device(&self) -> Device {
        self.device
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
            images: tokens.images.len() as u64,
            truncated: batch.truncated.samples as u64,
            left_out: batch.left_out,
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
    /// Samples of this rank that are longer than a packed row and were left out.
    left_out: u64,
}

impl TrainBatches {
    /// Starts the workers, whose work `profiler` records.
    pub(super) fn start(
        batching: Batching,
        dataset: Arc<dyn Dataset>,
        rows: Arc<dyn RowStream>,
        consumed: u64,
        profiler: Profiler,
    ) -> Result<Self> {
        let Batching { sampler, options, .. } = batching;
        let dataset = batching.without_unused_pixels(dataset);
        let source = move |n| {
            let _prepare = profiler.span("prepare");
            Some(neva_data::Batch::of_stream(
                &*dataset,
                &*rows,
                &options,
                sampler.positions(consumed, n),
            ))
        };
        Ok(Self {
            loader: Loader::new(source, batching.workers, batching.prefetch)?,
            batching,
            truncated: TruncationCounter::new(options.max_length, options.row_multiple),
            left_out: 0,
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
                self.count_left_out(batch.left_out);
                self.batching.microbatch(&batch)
            })
            .collect()
    }
}

impl TrainBatches {
    /// Counts samples that no row has. Warns of the first one, the tenth, the hundredth and so on.
    fn count_left_out(&mut self, samples: u64) {
        let digits = |count: u64| count.checked_ilog10();
        let before = digits(self.left_out);
        self.left_out += samples;
        if self.batching.is_first && digits(self.left_out) != before {
            let (count, length) = (self.left_out, self.batching.options.max_length);
            tracing::warn!("{count} sample(s) on this rank are longer than {length} positions and were left out (packing_oversize: skip)");
        }
    }
}

/// Iterates over `(microbatch, samples)` of one validation on `dataset`, or on its packed `rows`. Omits microbatches without
/// samples.
pub(super) fn validation_batches(
    batching: Batching,
    dataset: Arc<dyn Dataset>,
    rows: Option<Arc<dyn RowStream>>,
    limit: Option<u64>,
) -> Result<impl Iterator<Item = Result<(Microbatch, u64)>>> {
    let Batching { sampler, options, .. } = batching;
    let dataset = batching.without_unused_pixels(dataset);
    let source = move |n| {
        let Some(rows) = &rows else {
            let indices = sampler.validation(dataset.len() as u64, limit, n)?;
            return Some(neva_data::Batch::from_indices(&*dataset, &indices, &options));
        };
        let own = validation_rows(&**rows, &sampler, limit, n)?;
        let batch = own.and_then(|own| neva_data::Batch::from_rows(&*dataset, &own, &options, rows.row_length()));
        // Samples of a validation have no place in the stream of training samples.
        let placeless = |batch| neva_data::Batch {
            positions: Vec::new(),
            ..batch
        };
        Some(batch.map(|batch| batch.map(placeless)))
    };
    let loader = Loader::new(source, batching.workers, batching.prefetch)?;
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
