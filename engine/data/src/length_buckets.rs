//! Samples by length, for packing.

/// Marks the end of a list.
const NONE: u32 = u32::MAX;

/// Samples by length. Samples of the same length leave in ascending order.
pub(crate) struct LengthBuckets {
    /// First sample of each length.
    heads: Vec<u32>,
    /// Next sample of the same length, for each sample.
    next: Vec<u32>,
    /// A bit for each length that has samples.
    words: Vec<u64>,
    samples: usize,
    positions: usize,
}

impl LengthBuckets {
    /// Sorts the `samples` of `lengths`.
    pub(crate) fn new(lengths: &[usize]) -> Self {
        let longest = lengths.iter().max().copied().unwrap_or(0);
        let mut heads = vec![NONE; longest + 1];
        let mut next = vec![NONE; lengths.len()];
        let mut words = vec![0; longest / 64 + 1];
        for (sample, length) in lengths.iter().enumerate().rev() {
            next[sample] = heads[*length];
            heads[*length] = sample as u32;
            words[length / 64] |= 1 << (length % 64);
        }
        Self {
            heads,
            next,
            words,
            samples: lengths.len(),
            positions: lengths.iter().sum(),
        }
    }

    /// Returns the mean length, 0 without samples.
    pub(crate) fn mean(&self) -> f64 {
        self.positions as f64 / self.samples.max(1) as f64
    }

    /// Returns the longest length of at most `limit` that has samples.
    pub(crate) fn longest(&self, limit: usize) -> Option<usize> {
        let limit = limit.min(self.heads.len().checked_sub(1)?);
        let mut at = limit / 64;
        let mut word = self.words[at] & (u64::MAX >> (63 - limit % 64));
        while word == 0 {
            at = at.checked_sub(1)?;
            word = self.words[at];
        }
        Some(at * 64 + 63 - word.leading_zeros() as usize)
    }

    /// Returns the shortest length of at least `limit` that has samples.
    pub(crate) fn shortest(&self, limit: usize) -> Option<usize> {
        let mut at = limit / 64;
        let mut word = *self.words.get(at)? & (u64::MAX << (limit % 64));
        while word == 0 {
            at += 1;
            word = *self.words.get(at)?;
        }
        Some(at * 64 + word.trailing_zeros() as usize)
    }

    /// Returns the two lengths whose sum is the largest of at most `limit`; the first is not longer than the second.
    pub(crate) fn best_pair(&self, limit: usize) -> Option<(usize, usize)> {
        let mut best: Option<(usize, usize)> = None;
        let (mut short, mut long) = (self.shortest(0)?, self.longest(limit)?);
        while short <= long {
            let sum = short + long;
            let has_two = short != long || self.next[self.heads[short] as usize] != NONE;
            if sum > limit || !has_two {
                let Some(shorter) = long.checked_sub(1).and_then(|limit| self.longest(limit)) else {
                    break;
                };
                long = shorter;
                continue;
            }
            if best.is_none_or(|(first, second)| sum > first + second) {
                best = Some((short, long));
            }
            if sum == limit {
                break;
            }
            let Some(longer) = self.shortest(short + 1) else { break };
            short = longer;
        }
        best
    }

    /// Removes the first sample of this length and returns it.
    pub(crate) fn take(&mut self, length: usize) -> Option<usize> {
        let head = self.heads.get_mut(length)?;
        let sample = *head as usize;
        *head = *self.next.get(sample)?;
        if *head == NONE {
            self.words[length / 64] &= !(1 << (length % 64));
        }
        self.samples -= 1;
        self.positions -= length;
        Some(sample)
    }
}
