//! The stream of rows of a run: single samples, packed ones, or samples grouped by length.

use crate::checkpoint::RunProgress;
use crate::comm::{Mesh, all_succeed};
use crate::error::{EngineError, Result};
use neva_data::{Dataset, LengthGroups, MeasuredLengths, PackedRows, PackedSetRows, PackingOptions, RowStart, RowStream, SampleRows};
use neva_schemas::{Finetune, Packing, PackingOversize, Problem};
use std::sync::Arc;
use tch::Tensor;

/// Returns the stream of training rows of `dataset`, which a run resumes at `progress`.
///
/// # Errors
/// The packed set of the run does not fit its data, or a sample cannot be read.
pub(super) fn train_rows(
    finetune: &Finetune,
    dataset: &Arc<dyn Dataset>,
    progress: &RunProgress,
    mesh: &Mesh,
) -> Result<Arc<dyn RowStream>> {
    let (data, consumed) = (&finetune.data, progress.consumed_samples);
    let (seed, shuffle) = (data.seed(), data.shuffle());
    let order = dataset.order(seed, shuffle);
    let Some(packing) = data.packing() else {
        if data.groups_by_length() {
            let lengths = lengths(finetune, dataset);
            measure_together(&lengths, finetune, mesh)?;
            return Ok(Arc::new(LengthGroups::new(lengths, order, data.global_batch_size(), seed, shuffle)));
        }
        return Ok(Arc::new(SampleRows(order)));
    };
    let (options, lengths) = (options(&packing), lengths(finetune, dataset));
    if let Some(path) = &packing.set {
        if !order.reads_each_once() {
            let message = "a packed set has every sample once in an epoch, but this mixture has weights";
            let help = "set packing_buffer_size instead, which packs the mixture as it is read";
            return Err(EngineError::Run(vec![
                Problem::error("finetune.data.packed_set", message).help(help),
            ]));
        }
        return Ok(Arc::new(PackedSetRows::open(path, &lengths, &options, seed, shuffle)?));
    }
    measure_together(&lengths, finetune, mesh)?;
    let settings = options.hash();
    let start = match progress.row_start {
        Some(start) if start.settings == settings => start,
        // Rows of other settings: the samples that they have may be a part of a window, the rest of which is trained on again.
        Some(start) => RowStart { row: consumed, ..start },
        None => RowStart {
            row: consumed,
            sample: consumed,
            settings,
        },
    };
    Ok(Arc::new(PackedRows::endless(lengths, order, options, start)))
}

/// Samples that a thread measures within a few seconds.
const FEW: u64 = 20_000;

/// Measures all samples, if that is quick or `max_epochs` needs it: each rank a part, so that no rank reads all of them.
/// Otherwise each rank measures samples as it packs them.
fn measure_together(lengths: &MeasuredLengths, finetune: &Finetune, mesh: &Mesh) -> Result<()> {
    let world = mesh.world();
    let (rank, ranks) = (world.rank() as u64, world.size() as u64);
    let samples = lengths.dataset().len() as u64;
    let threads = ranks * finetune.data.num_workers().max(1) as u64;
    let is_quick = ranks > 1 && samples <= FEW.saturating_mul(threads);
    let counts_rows = finetune.trainer.max_epochs.is_some() && !finetune.data.groups_by_length();
    if !is_quick && !counts_rows {
        return Ok(());
    }
    if !is_quick && mesh.is_first() {
        tracing::info!("measures {samples} samples: `max_epochs` needs the number of rows that they are packed into");
    }
    let part = samples.div_ceil(ranks);
    let own = lengths.measure_range((rank * part).min(samples)..((rank + 1) * part).min(samples));
    let (own, result) = match own {
        Ok(words) => (words, Ok(())),
        Err(error) => (Vec::new(), Err(error.into())),
    };
    all_succeed(mesh, result)?;
    let mut own: Vec<i64> = own.into_iter().map(i64::from).collect();
    own.resize(part as usize, 0);
    for (rank, words) in (0..).zip(world.all_gather(&Tensor::f_from_slice(&own)?)?) {
        let words: Vec<i64> = Vec::try_from(&words)?;
        lengths.insert(rank * part, words.into_iter().map(|word| word as u32));
    }
    Ok(())
}

/// Returns the rows of a validation of packed samples; `None` if the run does not pack over a buffer.
pub(super) fn validation_rows(finetune: &Finetune, dataset: &Arc<dyn Dataset>) -> Option<Arc<dyn RowStream>> {
    let packing = finetune.data.packing()?;
    let options = PackingOptions {
        // A packed set has the training samples alone.
        buffer: packing.buffer.unwrap_or(VALIDATION_BUFFER),
        ..options(&packing)
    };
    Some(Arc::new(PackedRows::once(lengths(finetune, dataset), options)))
}

/// Validation samples that are packed together in a run that trains on a packed set.
const VALIDATION_BUFFER: usize = 1000;

fn lengths(finetune: &Finetune, dataset: &Arc<dyn Dataset>) -> Arc<MeasuredLengths> {
    let positions = finetune.model.description().image_seq_length();
    Arc::new(MeasuredLengths::new(dataset.clone(), positions, finetune.data.num_workers()))
}

fn options(packing: &Packing) -> PackingOptions {
    PackingOptions {
        buffer: packing.buffer.unwrap_or(usize::MAX),
        row_length: packing.row_length,
        max_length: packing.max_length,
        skips_longer: packing.oversize == PackingOversize::Skip,
    }
}
