//! The length index: number of positions of each record, for packing and for grouping by length. `neva-run data check`
//! writes it.
//!
//! The file has one line of JSON, the header, and then the lengths of all files as little-endian `u32`, in the header's
//! order:
//!
//! ```json
//! {"format":"neva length index 1","settings":"..","files":[{"file":"/data/train.json","fingerprint":"6f1d..","records":80000}]}
//! ```

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{
    error::DataError,
    word_file::{self, WordFile},
};

const FILE: WordFile = WordFile {
    name: "length index",
    command: "neva-run data check --length-index",
    format: "neva length index 1",
    max_header: 1 << 24,
};

/// Lengths of the records of data files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LengthIndex {
    /// Fingerprint of what determines the lengths: tokenizer, template, positions of an image.
    pub settings: String,
    /// The data files.
    pub files: Vec<FileLengths>,
}

/// Lengths of the records of one data file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileLengths {
    /// Path of the file when it was measured, for messages.
    pub file: String,
    /// [`RecordFile::fingerprint`](crate::RecordFile::fingerprint).
    pub fingerprint: String,
    /// Number of positions of each record after the merge, not truncated; 0 for a record that has no length.
    pub lengths: Vec<u32>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: String,
    settings: String,
    files: Vec<HeaderFile>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderFile {
    file: String,
    fingerprint: String,
    records: usize,
}

impl word_file::Header for Header {
    fn format(&self) -> &str {
        &self.format
    }

    fn words(&self) -> Option<u64> {
        self.files.iter().try_fold(0u64, |sum, file| sum.checked_add(file.records as u64))
    }
}

impl LengthIndex {
    /// Returns the lengths of the data file with this fingerprint.
    #[must_use]
    pub fn of(&self, fingerprint: &str) -> Option<&[u32]> {
        let file = self.files.iter().find(|file| file.fingerprint == fingerprint)?;
        Some(&file.lengths)
    }

    /// Reads an index from a file.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read or is not a whole length index.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let (header, words) = FILE.read::<Header>(path)?;
        let mut words = words.into_iter();
        let files = header.files.into_iter().map(|entry| FileLengths {
            file: entry.file,
            fingerprint: entry.fingerprint,
            lengths: words.by_ref().take(entry.records).collect(),
        });
        Ok(Self {
            settings: header.settings,
            files: files.collect(),
        })
    }

    /// Writes the index to a file, whole or not at all.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), DataError> {
        let header = Header {
            format: FILE.format.to_owned(),
            settings: self.settings.clone(),
            files: self
                .files
                .iter()
                .map(|file| HeaderFile {
                    file: file.file.clone(),
                    fingerprint: file.fingerprint.clone(),
                    records: file.lengths.len(),
                })
                .collect(),
        };
        let words = self.files.iter().flat_map(|file| file.lengths.iter().copied());
        WordFile::write(path, &header, words)
    }
}
