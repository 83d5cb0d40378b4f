//! The stream of rows of a run: single samples, packed ones, or samples grouped by length.

use crate::checkpoint::RunProgress;
use crate::error::{EngineError, Result};
use neva_data::{Dataset, LengthGroups, MeasuredLengths, PackedRows, PackedSetRows, PackingOptions, RowStart, RowStream, SampleRows};
use neva_schemas::{Finetune, Packing, PackingOversize, Problem};
use std::sync::Arc;

/// Returns the stream of training rows of `dataset`, which a run resumes at `progress`.
///
/// # Errors
/// The packed set of the run does not fit its data.
pub(super) fn train_rows(finetune: &Finetune, dataset: &Arc<dyn Dataset>, progress: &RunProgress) -> Result<Arc<dyn RowStream>> {
    let (data, consumed) = (&finetune.data, progress.consumed_samples);
    let (seed, shuffle) = (data.seed(), data.shuffle());
    let order = dataset.order(seed, shuffle);
    let Some(packing) = data.packing() else {
        if data.groups_by_length() {
            let lengths = lengths(finetune, dataset);
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
