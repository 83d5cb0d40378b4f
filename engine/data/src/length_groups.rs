//! Batches of samples of similar length and one modality: LLaVA's `group_by_modality_length`.
//!
//! The stream is cut into windows of global batches. In a window, samples with and without an image are in batches of their
//! own, except in one batch that takes the rest of both. The samples of a batch are sorted by length, so that those of a
//! microbatch are similar. Batches are shuffled within the window.

use std::sync::{Arc, Mutex, PoisonError};

use crate::{
    error::DataError,
    measured::MeasuredLengths,
    order::{SampleOrder, permute},
    random::Random,
    row_stream::{Row, RowSample, RowStream, samples_of},
};

/// Global batches of a window.
const BATCHES: u64 = 32;

/// Separates the random numbers from those of other uses of the seed.
const GROUPS: u64 = 0x6772_6f75_7073;

/// Rows of one sample each, grouped by modality and length.
pub struct LengthGroups {
    lengths: Arc<MeasuredLengths>,
    order: Arc<dyn SampleOrder>,
    batch: u64,
    seed: u64,
    shuffle: bool,
    /// The last windows, by number.
    windows: Mutex<Vec<(u64, Arc<[RowSample]>)>>,
}

impl LengthGroups {
    /// Groups the samples of `order` into global batches of `batch` samples.
    #[must_use]
    pub fn new(lengths: Arc<MeasuredLengths>, order: Arc<dyn SampleOrder>, batch: u64, seed: u64, shuffle: bool) -> Self {
        Self {
            lengths,
            order,
            batch: batch.max(1),
            seed,
            shuffle,
            windows: Mutex::new(Vec::new()),
        }
    }

    /// Returns the samples of a window, batch by batch.
    fn group(&self, window: u64) -> Result<Vec<RowSample>, DataError> {
        let size = self.batch * BATCHES;
        let samples = samples_of(&*self.order, window * size..(window + 1) * size);
        let indices: Vec<u64> = samples.iter().map(|sample| sample.index).collect();
        let lengths = self.lengths.of(&indices)?;
        let (mut images, mut texts) = (Vec::new(), Vec::new());
        for (sample, length) in samples.into_iter().zip(lengths) {
            let list = if length.has_image { &mut images } else { &mut texts };
            list.push((sample, length.positions));
        }
        let batch = self.batch as usize;
        let (mut batches, mut rest) = (Vec::new(), Vec::new());
        for list in [images, texts] {
            let whole = list.chunks_exact(batch);
            rest.extend_from_slice(whole.remainder());
            batches.extend(whole.map(<[_]>::to_vec));
        }
        // The rest of both is one batch, or none: a window has a whole number of them.
        batches.extend(rest.chunks(batch).map(<[_]>::to_vec));
        let random = Random::new(&[GROUPS, self.seed, window]);
        let count = batches.len() as u64;
        let place = |at: u64| if self.shuffle { permute(random, at, count) } else { at };
        let ordered = (0..count).filter_map(|at| batches.get(place(at) as usize));
        let sorted = ordered.flat_map(|batch| {
            let mut batch = batch.clone();
            batch.sort_by_key(|(sample, length)| (std::cmp::Reverse(*length), sample.position));
            batch.into_iter().map(|(sample, _)| sample)
        });
        Ok(sorted.collect())
    }
}

impl RowStream for LengthGroups {
    fn row(&self, row: u64) -> Result<Option<Row>, DataError> {
        let size = self.batch * BATCHES;
        let (window, at) = (row / size, (row % size) as usize);
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let known = windows.iter().find(|(number, _)| *number == window);
        let samples = match known {
            Some((_, samples)) => Arc::clone(samples),
            None => {
                let samples: Arc<[RowSample]> = self.group(window)?.into();
                windows.push((window, Arc::clone(&samples)));
                if windows.len() > 2 {
                    windows.remove(0);
                }
                samples
            }
        };
        let sample = samples.get(at).copied();
        Ok(sample.map(|sample| Row {
            samples: vec![sample],
            left_out: 0,
        }))
    }
}
