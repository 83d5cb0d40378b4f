//! Rows of a packed set, as training reads them.

use std::path::{Path, PathBuf};

use crate::{
    error::DataError,
    measured::MeasuredLengths,
    order::Order,
    packed_rows::PackingOptions,
    packed_set::PackedSet,
    row_stream::{Row, RowSample, RowStream},
};

/// Samples whose lengths are compared when a set is opened.
const COMPARED: u64 = 32;

/// Rows of a packed set, shuffled in each epoch.
pub struct PackedSetRows {
    set: PackedSet,
    order: Order,
}

impl PackedSetRows {
    /// Opens the rows of a set for the dataset of `lengths`, and compares the lengths of some samples.
    ///
    /// # Errors
    /// The file is no packed set, or it was made from other data or for other settings.
    pub fn open(path: &Path, lengths: &MeasuredLengths, options: &PackingOptions, seed: u64, shuffle: bool) -> Result<Self, DataError> {
        let set = PackedSet::read(path)?;
        let differs = |reason: String| DataError::PackedSet {
            path: PathBuf::from(path),
            reason,
        };
        let header = &set.header;
        let (dataset, samples) = (lengths.dataset(), header.samples);
        if dataset.len() != samples || dataset.identity() != header.identity {
            return Err(differs(format!(
                "was packed from other data, of {samples} samples; the run has {}",
                dataset.len()
            )));
        }
        set.check_lengths(options.row_length, options.max_length).map_err(&differs)?;
        let compared: Vec<u64> = (0..COMPARED.min(samples as u64))
            .map(|n| n * samples as u64 / COMPARED.min(samples as u64))
            .collect();
        let measured = lengths.of(&compared)?;
        for (index, length) in compared.iter().zip(measured) {
            let packed = set.length(*index as u32);
            if packed != length.positions {
                return Err(differs(format!(
                    "was packed with another tokenizer, template or model: {} has {} positions, not {packed}",
                    dataset.name(*index as usize),
                    length.positions
                )));
            }
        }
        let order = Order {
            seed,
            len: header.rows as u64,
            shuffle,
        };
        Ok(Self { set, order })
    }

    /// Returns the set.
    #[must_use]
    pub fn set(&self) -> &PackedSet {
        &self.set
    }
}

impl RowStream for PackedSetRows {
    fn row(&self, row: u64) -> Result<Option<Row>, DataError> {
        let epoch = row / self.order.len.max(1);
        let number = self.order.index(row) as usize;
        let before = epoch * self.set.header.packed as u64 + self.set.samples_before(number);
        let samples = (before..).zip(self.set.row_samples(number));
        Ok(Some(Row {
            samples: samples
                .map(|(position, index)| RowSample {
                    position,
                    index: (*index).into(),
                })
                .collect(),
            left_out: 0,
        }))
    }

    fn rows_of(&self, epochs: u64, limit: u64) -> Result<Option<u64>, DataError> {
        Ok(Some(self.order.len.saturating_mul(epochs).min(limit)))
    }

    fn row_length(&self) -> Option<usize> {
        Some(self.set.header.row_length)
    }
}
