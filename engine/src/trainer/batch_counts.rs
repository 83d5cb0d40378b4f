//! Counts of training batches.

use super::microbatch::Microbatch;
use neva_layout::ModelFlops;

/// Counts of this rank's training batches.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct BatchCounts {
    pub(super) samples: u64,
    pub(super) rows: u64,
    /// Positions without padding.
    pub(super) tokens: u64,
    pub(super) positions: u64,
    pub(super) truncated: u64,
    /// Samples that are longer than a packed row and were left out.
    pub(super) left_out: u64,
    /// Operations of the model for the microbatches that had labels.
    pub(super) model_flops: f64,
}

impl BatchCounts {
    /// Adds a microbatch, of whose rows this is one of `context_ranks` shards.
    pub(super) fn add(&mut self, microbatch: &Microbatch, context_ranks: u64, flops: &ModelFlops) {
        let segments = &microbatch.batch.segments;
        self.samples += segments.count() as u64;
        self.rows += microbatch.batch.input_ids_bs.size().first().copied().unwrap_or(0) as u64;
        self.tokens += microbatch.tokens;
        self.truncated += microbatch.truncated;
        self.left_out += microbatch.left_out;
        self.positions += microbatch.batch.input_ids_bs.numel() as u64 * context_ranks;
        // A microbatch without labels is skipped.
        if microbatch.labels > 0 {
            self.model_flops += flops.of_microbatch(&segments.lengths(), microbatch.labels, microbatch.images);
        }
    }
}
