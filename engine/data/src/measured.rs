//! Lengths of samples, measured when they are first needed.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use crate::{error::DataError, sample::Dataset};

/// Marks a sample with an image.
const IMAGE: u32 = 1 << 31;

/// Fewest samples that a thread measures.
const LEAST: usize = 32;

/// Length of one sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleLength {
    /// Number of positions after the merge, not truncated.
    pub positions: usize,
    /// The sample has an image.
    pub has_image: bool,
}

/// Lengths of a dataset's samples. A sample is read once, without its pixels.
pub struct MeasuredLengths {
    dataset: Arc<dyn Dataset>,
    image_seq_len: usize,
    threads: usize,
    /// For each sample 0, or one more than its length and [`IMAGE`].
    known: Vec<AtomicU32>,
}

impl MeasuredLengths {
    /// Creates the lengths of `dataset`, of whose samples none is measured. An image takes `image_seq_len` positions;
    /// `threads` measure together, at least one.
    #[must_use]
    pub fn new(dataset: Arc<dyn Dataset>, image_seq_len: usize, threads: usize) -> Self {
        let known = (0..dataset.len()).map(|_| AtomicU32::new(0)).collect();
        Self {
            dataset,
            image_seq_len,
            threads: threads.max(1),
            known,
        }
    }

    /// Returns the dataset.
    #[must_use]
    pub fn dataset(&self) -> &Arc<dyn Dataset> {
        &self.dataset
    }

    /// Returns the length of each of the samples `indices`.
    ///
    /// # Errors
    /// A sample cannot be read.
    pub fn of(&self, indices: &[u64]) -> Result<Vec<SampleLength>, DataError> {
        let unknown: Vec<u64> = indices.iter().copied().filter(|index| self.known(*index).is_none()).collect();
        let each = unknown.len().div_ceil(self.threads).max(LEAST);
        match unknown.len() <= LEAST {
            true => self.measure_all(&unknown)?,
            false => thread::scope(|scope| {
                let measure = |indices| scope.spawn(move || self.measure_all(indices));
                let threads: Vec<_> = unknown.chunks(each).map(measure).collect();
                let join = |thread: thread::ScopedJoinHandle<'_, Result<(), DataError>>| {
                    // A panic of a thread is one of the worker that measures.
                    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                };
                // The first error in the order of the samples is that of every rank.
                threads
                    .into_iter()
                    .map(join)
                    .collect::<Vec<_>>()
                    .into_iter()
                    .collect::<Result<(), _>>()
            })?,
        }
        indices
            .iter()
            .map(|index| self.known(*index).map_or_else(|| self.measure(*index), Ok))
            .collect()
    }

    /// Measures these samples. Returns a word for each, which [`Self::insert`] takes on another rank.
    ///
    /// # Errors
    /// A sample cannot be read.
    pub fn measure_range(&self, samples: Range<u64>) -> Result<Vec<u32>, DataError> {
        let end = samples.end.min(self.known.len() as u64);
        let indices: Vec<u64> = (samples.start..end).collect();
        self.of(&indices)?;
        let known = self.known.iter().take(end as usize).skip(samples.start as usize);
        Ok(known.map(|word| word.load(Ordering::Relaxed)).collect())
    }

    /// Notes the lengths of the samples from `first` on that another rank has measured.
    pub fn insert(&self, first: u64, words: impl IntoIterator<Item = u32>) {
        for (known, word) in self.known.iter().skip(first as usize).zip(words) {
            // 0 is a sample that has no word.
            if word != 0 {
                known.store(word, Ordering::Relaxed);
            }
        }
    }

    fn measure_all(&self, indices: &[u64]) -> Result<(), DataError> {
        indices.iter().try_for_each(|index| self.measure(*index).map(drop))
    }

    fn known(&self, index: u64) -> Option<SampleLength> {
        let word = self.known.get(index as usize)?.load(Ordering::Relaxed);
        Some(SampleLength {
            positions: (word & !IMAGE).checked_sub(1)? as usize,
            has_image: word & IMAGE != 0,
        })
    }

    fn measure(&self, index: u64) -> Result<SampleLength, DataError> {
        let at = index as usize;
        let sample = self.dataset.get_without_pixels(at);
        let sample = sample.map_err(|error| error.of_sample(|| self.dataset.name(at)))?;
        let length = SampleLength {
            positions: sample.sequence().merged_length(self.image_seq_len),
            has_image: !sample.images.is_empty(),
        };
        if let (Some(known), Ok(positions)) = (self.known.get(at), u32::try_from(length.positions))
            && positions < IMAGE - 1
        {
            known.store((positions + 1) | if length.has_image { IMAGE } else { 0 }, Ordering::Relaxed);
        }
        Ok(length)
    }
}
