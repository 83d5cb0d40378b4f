//! Policy for broken samples: end the run, or use the next sample instead.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    error::DataError,
    sample::{Dataset, Sample},
};

/// Wrapper of a dataset that replaces each broken sample by the next one that is whole.
///
/// Length and order of the dataset stay the same, and the replacement depends on the dataset only. So all ranks, layouts
/// and resumed runs agree. Errors that are not of one sample, such as a disk that cannot be read, are not skipped.
pub struct SkipBroken {
    dataset: Arc<dyn Dataset>,
    max_skipped: usize,
    broken: Mutex<BTreeSet<usize>>,
}

impl SkipBroken {
    /// Wraps `dataset`, of which the samples `known` are broken. At most `max_skipped` samples are skipped, those
    /// included.
    pub fn new(dataset: Arc<dyn Dataset>, known: impl IntoIterator<Item = usize>, max_skipped: usize) -> Self {
        Self {
            dataset,
            max_skipped,
            broken: Mutex::new(known.into_iter().collect()),
        }
    }

    /// Returns the indices of the broken samples that were met so far.
    #[must_use]
    pub fn broken(&self) -> Vec<usize> {
        self.set().iter().copied().collect()
    }

    fn set(&self) -> std::sync::MutexGuard<'_, BTreeSet<usize>> {
        // Every change of the set is a single insertion, so a panic elsewhere leaves it whole.
        self.broken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the first whole sample from `index` on, in the dataset's order, as `read` returns it.
    fn next_whole<T>(&self, index: usize, read: impl Fn(usize) -> Result<T, DataError>) -> Result<T, DataError> {
        let len = self.dataset.len();
        // There is no sample beyond the end, which is not a broken one.
        let others = if index < len { 0..index } else { 0..0 };
        for index in (index..len).chain(others) {
            if self.set().contains(&index) {
                continue;
            }
            let error = match read(index) {
                Err(error) if error.is_of_one_sample() => error.of_sample(|| self.dataset.name(index)),
                other => return other,
            };
            let skipped = {
                let mut broken = self.set();
                broken.insert(index);
                broken.len()
            };
            if skipped > self.max_skipped {
                return Err(DataError::TooManyBroken {
                    skipped,
                    max_skipped: self.max_skipped,
                    error: Box::new(error),
                });
            }
            tracing::warn!(
                "skips a broken sample and uses the next one instead ({skipped} of at most {} on this rank): {error}",
                self.max_skipped
            );
        }
        // No sample is whole, or the index is beyond the end.
        read(index)
    }
}

impl Dataset for SkipBroken {
    fn len(&self) -> usize {
        self.dataset.len()
    }

    fn identity(&self) -> String {
        self.dataset.identity()
    }

    fn get(&self, index: usize) -> Result<Sample, DataError> {
        self.next_whole(index, |index| self.dataset.get(index))
    }

    fn get_without_pixels(&self, index: usize) -> Result<Sample, DataError> {
        self.next_whole(index, |index| self.dataset.get_without_pixels(index))
    }

    fn name(&self, index: usize) -> String {
        self.dataset.name(index)
    }
}
