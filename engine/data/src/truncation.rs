//! Counts samples that are longer than the maximum length and are therefore cut.

use crate::sequence::Sequence;

/// Samples of a batch that are longer than the maximum length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Truncated {
    /// Number of samples.
    pub samples: usize,
    /// Name and length, in positions, of the longest one.
    pub longest: Option<(String, usize)>,
}

impl Truncated {
    /// Measures sequences.
    pub(crate) fn of(sequences: &[Sequence<'_>], image_seq_len: usize, max_length: usize) -> Self {
        let lengths = sequences
            .iter()
            .map(|sequence| (sequence.name, sequence.merged_length(image_seq_len)));
        let longer: Vec<_> = lengths.filter(|(_, length)| *length > max_length).collect();
        let longest = longer.iter().max_by_key(|(_, length)| *length);
        Self {
            samples: longer.len(),
            longest: longest.map(|(name, length)| ((*name).to_owned(), *length)),
        }
    }
}

/// Running count of truncated samples. It has a message at the first one, at the tenth, the hundredth and so on.
#[derive(Clone, Debug)]
pub struct TruncationCounter {
    max_length: usize,
    row_multiple: usize,
    read: u64,
    total: Truncated,
    next: usize,
}

impl TruncationCounter {
    /// Creates a counter for samples that are cut at `max_length` positions, a multiple of `row_multiple`.
    #[must_use]
    pub fn new(max_length: usize, row_multiple: usize) -> Self {
        Self {
            max_length,
            row_multiple,
            read: 0,
            total: Truncated::default(),
            next: 1,
        }
    }

    /// Returns the truncated samples of all batches so far.
    #[must_use]
    pub fn total(&self) -> &Truncated {
        &self.total
    }

    /// Adds a batch of `samples` samples with its truncated ones. Returns a warning if the count has reached the next power
    /// of ten.
    pub fn add(&mut self, samples: usize, truncated: &Truncated) -> Option<String> {
        self.read += samples as u64;
        self.total.samples += truncated.samples;
        let length = |of: &Truncated| of.longest.as_ref().map_or(0, |(_, length)| *length);
        if length(truncated) > length(&self.total) {
            self.total.longest.clone_from(&truncated.longest);
        }
        if self.total.samples < self.next {
            return None;
        }
        while self.next <= self.total.samples {
            self.next = self.next.saturating_mul(10);
        }
        let (name, length) = self.total.longest.as_ref()?;
        Some(format!(
            "{} of the {} samples read so far are longer than seq_length {} and were cut; the longest is {name} with \
             {length} positions: set finetune.data.seq_length to {} or more to keep all",
            self.total.samples,
            self.read,
            self.max_length,
            length.next_multiple_of(self.row_multiple.max(1)),
        ))
    }
}
