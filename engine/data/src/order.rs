//! Order of samples, and the batch sampler of a data-parallel rank.
//!
//! The stream of samples is the endless concatenation of epochs; each epoch is a permutation that depends on
//! (seed, epoch) only. Global batch `k` is the positions `[k * gbs, (k + 1) * gbs)` of that stream: no sample is dropped,
//! and a batch may span two epochs. The numbers of ranks, workers and microbatches decide which rank computes a sample,
//! never which samples a step uses. Therefore `consumed_samples` is all the data state that a resumed run needs.
//! (NeMo's sampler permutes buckets per rank, so its order changes with the number of ranks.)

use crate::random::Random;
use std::ops::Range;

/// An endless stream of dataset indices. An index is a function of its position, so that a run resumes at any position.
pub trait SampleOrder: Send + Sync {
    /// Returns the dataset index at `position` of the stream.
    fn index(&self, position: u64) -> u64;

    /// Returns the number of positions of an epoch; `None` if it is the number of samples of the dataset.
    fn epoch(&self) -> Option<u64> {
        None
    }

    /// Returns true if an epoch has every sample of the dataset once.
    fn reads_each_once(&self) -> bool {
        false
    }
}

/// The endless stream of sample indices over a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// Seed of the permutations.
    pub seed: u64,
    /// Number of samples in the dataset.
    pub len: u64,
    /// Shuffles every epoch. If `false`, every epoch is `0, 1, 2, ..` (validation).
    pub shuffle: bool,
}

impl Order {
    /// Returns the dataset index at `position` of the stream, or 0 for an empty dataset.
    #[must_use]
    pub fn index(&self, position: u64) -> u64 {
        let Some(within) = position.checked_rem(self.len) else { return 0 };
        if !self.shuffle {
            return within;
        }
        permute(Random::new(&[self.seed, position / self.len]), within, self.len)
    }
}

impl SampleOrder for Order {
    fn index(&self, position: u64) -> u64 {
        Self::index(self, position)
    }

    fn epoch(&self) -> Option<u64> {
        Some(self.len)
    }

    fn reads_each_once(&self) -> bool {
        true
    }
}

/// Batch sampler of one data-parallel rank: returns the dataset indices of the rank's microbatches.
///
/// The `j`-th microbatch of rank `r` is the `micro_batch_size` positions that start at
/// `(j * data_parallel_size + r) * micro_batch_size` of the global batch, as in Megatron's `MegatronPretrainingSampler`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSampler {
    /// Number of samples per optimizer step over all ranks.
    pub global_batch_size: u64,
    /// Number of samples per forward pass of one rank.
    pub micro_batch_size: u64,
    /// Number of data-parallel ranks.
    pub data_parallel_size: u64,
    /// This rank, in `0..data_parallel_size`.
    pub data_parallel_rank: u64,
}

impl BatchSampler {
    /// Returns the number of microbatches of this rank per global batch, or 0 if the sizes do not divide: see
    /// [`Self::problem`].
    #[must_use]
    pub fn num_microbatches(&self) -> u64 {
        self.global_batch_size
            .checked_div(self.micro_batch_size * self.data_parallel_size)
            .unwrap_or(0)
    }

    /// Validates the sizes. Returns the text of the problem, if there is one.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let Self {
            global_batch_size: global,
            micro_batch_size: micro,
            data_parallel_size: ranks,
            ..
        } = *self;
        if self.data_parallel_rank >= ranks {
            return Some(format!(
                "data_parallel_rank {} is not below data_parallel_size {ranks}",
                self.data_parallel_rank
            ));
        }
        if micro == 0 || global == 0 || global % (micro * ranks) != 0 {
            return Some(format!(
                "global_batch_size {global} is not a positive multiple of micro_batch_size {micro} x data_parallel_size {ranks}"
            ));
        }
        None
    }

    /// Returns the dataset indices of this rank's `n`-th microbatch, counted from `consumed_samples` of the stream.
    /// Microbatches of one global batch are adjacent: `n / num_microbatches()` is the step.
    #[must_use]
    pub fn microbatch(&self, order: &dyn SampleOrder, consumed_samples: u64, n: u64) -> Vec<u64> {
        self.positions(consumed_samples, n).map(|position| order.index(position)).collect()
    }

    /// Returns the positions of the stream that this rank's `n`-th microbatch has, counted from `consumed_samples`.
    #[must_use]
    pub fn positions(&self, consumed_samples: u64, n: u64) -> Range<u64> {
        let start = consumed_samples + (n * self.data_parallel_size + self.data_parallel_rank) * self.micro_batch_size;
        start..start + self.micro_batch_size
    }

    /// Returns the dataset indices of the global batch that starts at `consumed_samples` of the stream, over all ranks.
    #[must_use]
    pub fn global_batch(&self, order: &dyn SampleOrder, consumed_samples: u64) -> Vec<u64> {
        (consumed_samples..consumed_samples + self.global_batch_size)
            .map(|position| order.index(position))
            .collect()
    }

    /// Returns the number of global batches of a validation over `samples` samples, at most `limit`. The last batch may
    /// be incomplete.
    #[must_use]
    pub fn num_batches(&self, samples: u64, limit: Option<u64>) -> u64 {
        let batches = samples.div_ceil(self.global_batch_size.max(1));
        limit.map_or(batches, |limit| batches.min(limit))
    }

    /// Returns the dataset indices of this rank's `n`-th microbatch of a validation, or `None` after the last one.
    ///
    /// A validation reads the dataset once, in the order of its indices. All ranks have the same number of microbatches,
    /// so that they can run collectives after each one. Positions beyond `samples` are left out, so the last microbatches
    /// may be shorter or empty.
    #[must_use]
    pub fn validation(&self, samples: u64, limit: Option<u64>, n: u64) -> Option<Vec<u64>> {
        let microbatches = self.num_batches(samples, limit).saturating_mul(self.num_microbatches());
        let start = (n < microbatches).then(|| (n * self.data_parallel_size + self.data_parallel_rank) * self.micro_batch_size)?;
        Some((start..samples.min(start + self.micro_batch_size)).collect())
    }
}

/// Applies a random permutation of `0..len` to `x`: the swap-or-not shuffle (Hoang, Morris and Rogaway, 2012).
/// It needs no table, so that resuming at any position of any epoch costs nothing. It is nearly uniform for every length.
pub(crate) fn permute(random: Random, mut x: u64, len: u64) -> u64 {
    // Uniform to about 2^-20. The paper needs about 6 log2(len) rounds; small lengths need a minimum as well.
    let rounds = 48 + 6 * u64::from(u64::BITS - len.leading_zeros());
    for round in 0..rounds {
        let pivot = random.below(round, len);
        let partner = (pivot + len - x) % len;
        let pair = x.max(partner);
        if Random::new(&[random.bits(round), pair]).bits(0) & 1 == 1 {
            x = partner;
        }
    }
    x
}
