//! A packed set: the rows of a whole dataset, packed ahead of time. `neva-run data pack` writes it.
//!
//! The file has one line of JSON, the header, and then little-endian `u32`: the length of each sample, the number of samples
//! of each row, and the samples of all rows.
//!
//! ```json
//! {"format":"neva packed set 1","identity":"6f1d..","row_length":4096,"max_length":2048,"samples":80000,"rows":20011,"packed":80000}
//! ```
//!
//! Every epoch has the same rows in another order, so a run resumes at any row at once.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{
    error::DataError,
    pack::pack_buffer,
    packed_rows::PackingOptions,
    word_file::{self, WordFile},
};

const FILE: WordFile = WordFile {
    name: "packed set",
    command: "neva-run data pack",
    format: "neva packed set 1",
    max_header: 1 << 16,
};

/// Rows of a whole dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedSet {
    pub(crate) header: Header,
    /// Length of each sample, not truncated.
    lengths: Vec<u32>,
    /// Number of packed samples before each row, and their total.
    firsts: Vec<u64>,
    /// Dataset indices of the samples, row by row.
    samples: Vec<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Header {
    format: String,
    /// [`Dataset::identity`](crate::Dataset::identity) of the dataset.
    pub(crate) identity: String,
    pub(crate) row_length: usize,
    pub(crate) max_length: usize,
    pub(crate) samples: usize,
    pub(crate) rows: usize,
    /// Samples that rows have.
    pub(crate) packed: usize,
}

impl word_file::Header for Header {
    fn format(&self) -> &str {
        &self.format
    }

    fn words(&self) -> Option<u64> {
        (self.samples as u64).checked_add(self.rows as u64)?.checked_add(self.packed as u64)
    }
}

impl PackedSet {
    /// Packs samples of these lengths, each once. `options.buffer` samples are packed together, in the order of their indices.
    ///
    /// # Errors
    /// There are more samples than a set can have, or none fits.
    pub fn pack(identity: String, lengths: Vec<u32>, options: &PackingOptions) -> Result<Self, DataError> {
        let PackingOptions {
            buffer,
            row_length,
            max_length,
            skips_longer,
        } = *options;
        let count = u32::try_from(lengths.len()).map_err(|_| DataError::TooManySamples { samples: lengths.len() })?;
        let length = |sample: u32| lengths.get(sample as usize).map_or(0, |length| *length as usize);
        let kept: Vec<u32> = (0..count).filter(|sample| !skips_longer || length(*sample) <= max_length).collect();
        if kept.is_empty() {
            return Err(DataError::NothingFits {
                samples: count.into(),
                max_length,
            });
        }
        let (mut firsts, mut samples) = (vec![0], Vec::with_capacity(kept.len()));
        for window in kept.chunks(buffer.max(1)) {
            let lengths: Vec<usize> = window.iter().map(|sample| length(*sample).min(max_length)).collect();
            for row in pack_buffer(&lengths, row_length) {
                samples.extend(row.iter().filter_map(|at| window.get(*at)));
                firsts.push(samples.len() as u64);
            }
        }
        Ok(Self {
            header: Header {
                format: FILE.format.to_owned(),
                identity,
                row_length,
                max_length,
                samples: lengths.len(),
                rows: firsts.len() - 1,
                packed: samples.len(),
            },
            lengths,
            firsts,
            samples,
        })
    }

    /// Compares the lengths of rows and samples with those that a run asks for.
    ///
    /// # Errors
    /// Returns the difference.
    pub fn check_lengths(&self, row_length: usize, max_length: usize) -> Result<(), String> {
        let (row, sample) = (self.header.row_length, self.header.max_length);
        match (row, sample) == (row_length, max_length) {
            true => Ok(()),
            false => Err(format!(
                "has rows of {row} positions and samples of at most {sample}; the run asks for {row_length} and {max_length}"
            )),
        }
    }

    /// Returns the number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.header.rows
    }

    /// Returns the number of samples that rows have.
    #[must_use]
    pub fn samples(&self) -> usize {
        self.samples.len()
    }

    /// Returns the number of samples that are longer than a row and were left out.
    #[must_use]
    pub fn left_out(&self) -> usize {
        self.header.samples - self.header.packed
    }

    /// Returns the number of samples in rows that are truncated.
    #[must_use]
    pub fn truncated(&self) -> usize {
        let is_longer = |sample: &&u32| self.length(**sample) > self.header.max_length;
        self.samples.iter().filter(is_longer).count()
    }

    /// Returns the share of the positions of all rows that samples fill.
    #[must_use]
    pub fn fill(&self) -> f64 {
        let filled: usize = self
            .samples
            .iter()
            .map(|sample| self.length(*sample).min(self.header.max_length))
            .sum();
        filled as f64 / (self.header.rows.max(1) * self.header.row_length.max(1)) as f64
    }

    /// Returns the length of a sample.
    pub(crate) fn length(&self, sample: u32) -> usize {
        self.lengths.get(sample as usize).map_or(0, |length| *length as usize)
    }

    /// Reads a packed set from a file.
    ///
    /// # Errors
    /// The file cannot be read or is not a whole packed set.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let (header, mut lengths) = FILE.read::<Header>(path)?;
        let damaged = || FILE.damaged(path, "its rows do not fit its samples");
        if lengths.len() < header.samples + header.rows {
            return Err(damaged());
        }
        let mut counts = lengths.split_off(header.samples);
        let samples = counts.split_off(header.rows);
        let mut firsts = vec![0];
        firsts.extend(counts.iter().scan(0, |before, count| {
            *before += u64::from(*count);
            Some(*before)
        }));
        let is_whole = firsts.last() == Some(&(header.packed as u64)) && samples.iter().all(|sample| (*sample as usize) < header.samples);
        let set = Self {
            header,
            lengths,
            firsts,
            samples,
        };
        match is_whole && set.header.rows > 0 && set.rows_fit() {
            true => Ok(set),
            false => Err(damaged()),
        }
    }

    /// Returns whether no row is longer than its maximum.
    fn rows_fit(&self) -> bool {
        let filled = |row: &[u32]| {
            row.iter()
                .map(|sample| self.length(*sample).min(self.header.max_length))
                .sum::<usize>()
        };
        (0..self.header.rows).all(|row| filled(self.row_samples(row)) <= self.header.row_length)
    }

    /// Returns the number of packed samples before a row.
    pub(crate) fn samples_before(&self, row: usize) -> u64 {
        self.firsts.get(row).copied().unwrap_or(0)
    }

    /// Returns the samples of a row.
    pub(crate) fn row_samples(&self, row: usize) -> &[u32] {
        match self.firsts.get(row..row + 2) {
            Some([first, end]) => self.samples.get(*first as usize..*end as usize).unwrap_or_default(),
            _ => &[],
        }
    }

    /// Writes the set to a file, whole or not at all.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), DataError> {
        let counts = (0..self.header.rows).map(|row| self.row_samples(row).len() as u32);
        let words = self.lengths.iter().copied().chain(counts).chain(self.samples.iter().copied());
        WordFile::write(path, &self.header, words)
    }
}
