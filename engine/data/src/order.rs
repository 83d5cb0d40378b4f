//! Which sample comes when.
//!
//! The stream of samples is the endless concatenation of epochs; each epoch is a permutation that depends on
//! (seed, epoch) only. Global batch `k` is the positions `[k * gbs, (k + 1) * gbs)` of that stream: nothing is dropped,
//! and a batch may straddle two epochs. How many ranks, workers or micro-batches there are changes who computes a
//! sample, never which samples a step sees, so `consumed_samples` is the whole state of a resumed run.
//! (NeMo's sampler permutes buckets per rank, so its order changes with the number of ranks.)

use crate::random::Random;

/// The endless stream of sample indices over a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// Names the permutations.
    pub seed: u64,
    /// Samples in the dataset.
    pub len: u64,
    /// `false`: every epoch is `0, 1, 2, ..` (validation).
    pub shuffle: bool,
}

impl Order {
    /// The dataset index at `position` of the stream; 0 for an empty dataset.
    #[must_use]
    pub fn index(&self, position: u64) -> u64 {
        let Some(within) = position.checked_rem(self.len) else { return 0 };
        if !self.shuffle {
            return within;
        }
        permute(Random::of(&[self.seed, position / self.len]), within, self.len)
    }
}

/// The part of every global batch that one data-parallel rank computes.
///
/// A global batch is cut into micro-batches first and ranks second: the `j`-th micro-batch of rank `r` is the
/// `micro_batch_size` positions that start at `(j * data_parallel_size + r) * micro_batch_size` of the batch,
/// as in Megatron.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSlice {
    /// Samples per optimizer step over all ranks.
    pub global_batch_size: u64,
    /// Samples per forward pass of one rank.
    pub micro_batch_size: u64,
    /// Ranks that share the batch.
    pub data_parallel_size: u64,
    /// This rank, in `0..data_parallel_size`.
    pub data_parallel_rank: u64,
}

impl BatchSlice {
    /// Micro-batches of this rank per global batch. Zero where the sizes do not divide: see [`Self::problem`].
    #[must_use]
    pub fn num_microbatches(&self) -> u64 {
        self.global_batch_size
            .checked_div(self.micro_batch_size * self.data_parallel_size)
            .unwrap_or(0)
    }

    /// What is wrong with the sizes, in words, if anything is.
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

    /// Dataset indices of this rank's `n`-th micro-batch, counted from `consumed_samples` of the stream.
    /// Micro-batches of one global batch are adjacent: `n / num_microbatches()` is the step.
    #[must_use]
    pub fn microbatch(&self, order: &Order, consumed_samples: u64, n: u64) -> Vec<u64> {
        let start = consumed_samples + (n * self.data_parallel_size + self.data_parallel_rank) * self.micro_batch_size;
        (start..start + self.micro_batch_size)
            .map(|position| order.index(position))
            .collect()
    }

    /// Dataset indices of the whole global batch that starts at `consumed_samples` of the stream, over all ranks.
    #[must_use]
    pub fn global_batch(&self, order: &Order, consumed_samples: u64) -> Vec<u64> {
        (consumed_samples..consumed_samples + self.global_batch_size)
            .map(|position| order.index(position))
            .collect()
    }

    /// Global batches of a validation over a dataset of `samples`, at most `limit`; the last one may be incomplete.
    #[must_use]
    pub fn num_batches(&self, samples: u64, limit: Option<u64>) -> u64 {
        let batches = samples.div_ceil(self.global_batch_size.max(1));
        limit.map_or(batches, |limit| batches.min(limit))
    }

    /// Dataset indices of this rank's `n`-th micro-batch of a validation; `None` after the last one.
    ///
    /// A validation walks the dataset once, in its own order. All ranks have the same number of micro-batches, so that
    /// they can meet after each; what lies beyond `samples` is left out, so that the last ones may be shorter or empty.
    #[must_use]
    pub fn validation(&self, samples: u64, limit: Option<u64>, n: u64) -> Option<Vec<u64>> {
        let microbatches = self.num_batches(samples, limit).saturating_mul(self.num_microbatches());
        let start = (n < microbatches).then(|| (n * self.data_parallel_size + self.data_parallel_rank) * self.micro_batch_size)?;
        Some((start..samples.min(start + self.micro_batch_size)).collect())
    }
}

/// The image of `x` under a permutation of `0..len`: the swap-or-not shuffle (Hoang, Morris and Rogaway, 2012).
/// It needs no table, so that resuming at any position of any epoch costs nothing, and is near uniform for every length.
pub(crate) fn permute(random: Random, mut x: u64, len: u64) -> u64 {
    // Uniform within 2^-20 or so: the paper asks for some 6 log2(len) rounds, and small lengths for a floor.
    let rounds = 48 + 6 * u64::from(u64::BITS - len.leading_zeros());
    for round in 0..rounds {
        let pivot = random.below(round, len);
        let partner = (pivot + len - x) % len;
        let pair = x.max(partner);
        if Random::of(&[random.bits(round), pair]).bits(0) & 1 == 1 {
            x = partner;
        }
    }
    x
}
