//! A microbatch on one rank.

use crate::batch::Batch;
use crate::error::Result;
use crate::parallel::batch_on_this_cp_rank;
use crate::sample_keys::SampleKeys;
use neva_layout::ZigZag;
use std::sync::Arc;
use tch::Kind;

/// A microbatch, and the counts that are known before its forward pass.
#[derive(Debug)]
pub struct Microbatch {
    /// The tensors. With context parallelism, this rank's shard of each row.
    pub batch: Batch,
    /// Labelled tokens of the whole rows.
    pub labels: u64,
    /// Positions, padding left out.
    pub tokens: u64,
    /// Samples without any label.
    pub zero_label_samples: u64,
    /// Images of the whole rows. Pixels are also absent on a stage without the vision encoder.
    pub images: u64,
    /// Samples that were truncated.
    pub truncated: u64,
    /// Samples before its first row that no row has, because they are longer than a packed row.
    pub left_out: u64,
    /// Keys of its samples, for dropout in training. With context parallelism, those of this rank's shard.
    pub keys: Option<Arc<SampleKeys>>,
}

impl Microbatch {
    /// Creates a microbatch from tensors, and counts its labels.
    pub fn of(batch: Batch, tokens: u64) -> Self {
        let labelled_b = batch.labels_bs.ge(0).sum_dim_intlist([1].as_slice(), false, Kind::Int64);
        Self {
            labels: labelled_b.sum(Kind::Int64).int64_value(&[]) as u64,
            zero_label_samples: labelled_b.eq(0).sum(Kind::Int64).int64_value(&[]) as u64,
            tokens,
            images: batch
                .pixels
                .as_ref()
                .map_or(u64::from(batch.image_positions.numel() > 0), |pixels| pixels.size()[0] as u64),
            truncated: 0,
            left_out: 0,
            keys: None,
            batch,
        }
    }

    /// Returns the same microbatch with the keys of `batch`, from which it was made.
    #[must_use]
    pub fn keyed(self, batch: &neva_data::Batch) -> Self {
        let keys = SampleKeys::of(batch).map(Arc::new);
        Self { keys, ..self }
    }

    /// Returns a rank's context-parallel shard of a whole microbatch, with the counts of the whole.
    ///
    /// # Errors
    /// The rows cannot be split evenly.
    pub fn context_shard(self, zigzag: ZigZag) -> Result<Self> {
        Ok(Self {
            batch: batch_on_this_cp_rank(self.batch, zigzag)?,
            keys: self.keys.map(|keys| Arc::new(keys.as_ref().clone().held(zigzag))),
            ..self
        })
    }
}
