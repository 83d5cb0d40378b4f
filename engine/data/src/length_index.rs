//! The length index: number of positions of each record, for packing and for grouping by length. `neva-run data check`
//! writes it.
//!
//! The file has one line of JSON, the header, and then the lengths of all files as little-endian `u32`, in the header's
//! order:
//!
//! ```json
//! {"format":"neva length index 1","settings":"..","files":[{"file":"/data/train.json","fingerprint":"6f1d..","records":80000}]}
//! ```

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::{error::DataError, staged_file::replace_file};

const FORMAT: &str = "neva length index 1";

/// Longest header that is read, in bytes.
const MAX_HEADER: u64 = 1 << 24;

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
        let read = |error| DataError::Read {
            path: path.to_owned(),
            error,
        };
        let invalid = |reason: &str| read(io::Error::new(io::ErrorKind::InvalidData, reason));
        let file = File::open(path).map_err(read)?;
        let size = file.metadata().map_err(read)?.len();
        let mut file = BufReader::new(file);
        let mut line = Vec::new();
        (&mut file).take(MAX_HEADER).read_until(b'\n', &mut line).map_err(read)?;
        let header: Header = serde_json::from_slice(&line).map_err(|_| invalid("its first line is not the header of a length index"))?;
        if header.format != FORMAT {
            return Err(invalid(&format!("its format is `{}`, expected `{FORMAT}`", header.format)));
        }
        let records = header.files.iter().try_fold(0u64, |sum, file| sum.checked_add(file.records as u64));
        let expected = records.and_then(|records| records.checked_mul(4)?.checked_add(line.len() as u64));
        if expected != Some(size) {
            return Err(invalid("its size does not match its header: write it again"));
        }
        let files = header.files.into_iter().map(|entry| {
            let mut lengths = Vec::with_capacity(entry.records);
            for _ in 0..entry.records {
                let mut word = [0; 4];
                file.read_exact(&mut word).map_err(read)?;
                lengths.push(u32::from_le_bytes(word));
            }
            Ok(FileLengths {
                file: entry.file,
                fingerprint: entry.fingerprint,
                lengths,
            })
        });
        Ok(Self {
            settings: header.settings,
            files: files.collect::<Result<_, DataError>>()?,
        })
    }

    /// Writes the index to a file, whole or not at all.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), DataError> {
        let header = Header {
            format: FORMAT.to_owned(),
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
        replace_file(path, |out| {
            serde_json::to_writer(&mut *out, &header)?;
            out.write_all(b"\n")?;
            for length in self.files.iter().flat_map(|file| &file.lengths) {
                out.write_all(&length.to_le_bytes())?;
            }
            Ok(())
        })
        .map_err(|error| DataError::Write {
            path: path.to_owned(),
            error,
        })
    }
}
