//! A file of one line of JSON, the header, and little-endian `u32` after it.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    path::Path,
};

use serde::{Serialize, de::DeserializeOwned};

use crate::{error::DataError, staged_file::replace_file};

/// A kind of such files.
pub(crate) struct WordFile {
    /// Its name in messages.
    pub(crate) name: &'static str,
    /// The command that writes one.
    pub(crate) command: &'static str,
    /// Value of the header's `format`.
    pub(crate) format: &'static str,
    /// Longest header that is read, in bytes.
    pub(crate) max_header: u64,
}

/// What every header says.
pub(crate) trait Header: Serialize + DeserializeOwned {
    /// Returns the format.
    fn format(&self) -> &str;

    /// Returns the number of words; `None` if no file has so many.
    fn words(&self) -> Option<u64>;
}

impl WordFile {
    /// Reads a file: its header, and as many words as that says.
    ///
    /// # Errors
    /// The file cannot be read, or is not a whole file of this kind.
    pub(crate) fn read<H: Header>(&self, path: &Path) -> Result<(H, Vec<u32>), DataError> {
        let read = |error| DataError::Read {
            path: path.to_owned(),
            error,
        };
        let file = File::open(path).map_err(read)?;
        let size = file.metadata().map_err(read)?.len();
        let mut file = BufReader::new(file);
        let mut line = Vec::new();
        (&mut file).take(self.max_header).read_until(b'\n', &mut line).map_err(read)?;
        let header: H = serde_json::from_slice(&line).map_err(|_| {
            let Self { name, command, .. } = self;
            self.invalid(
                path,
                &format!("its first line is not the header of a {name}: `{command}` writes one"),
            )
        })?;
        if header.format() != self.format {
            return Err(self.invalid(path, &format!("its format is `{}`, expected `{}`", header.format(), self.format)));
        }
        let words = header.words();
        if words.and_then(|words| words.checked_mul(4)?.checked_add(line.len() as u64)) != Some(size) {
            return Err(self.damaged(path, "its size does not match its header"));
        }
        let mut bytes = Vec::with_capacity(size as usize - line.len());
        file.read_to_end(&mut bytes).map_err(read)?;
        let words: Vec<u32> = (bytes.chunks_exact(4))
            .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
            .collect();
        // The file may have been cut since.
        match Some(words.len() as u64) == header.words() {
            true => Ok((header, words)),
            false => Err(self.damaged(path, "its size does not match its header")),
        }
    }

    /// Returns the error of a file whose words do not fit its header.
    pub(crate) fn damaged(&self, path: &Path, reason: &str) -> DataError {
        self.invalid(path, &format!("{reason}: write it again with `{}`", self.command))
    }

    fn invalid(&self, path: &Path, reason: &str) -> DataError {
        DataError::Read {
            path: path.to_owned(),
            error: io::Error::new(io::ErrorKind::InvalidData, reason),
        }
    }

    /// Writes a file, whole or not at all.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn write<H: Header>(path: &Path, header: &H, words: impl Iterator<Item = u32>) -> Result<(), DataError> {
        replace_file(path, |out| {
            serde_json::to_writer(&mut *out, header)?;
            out.write_all(b"\n")?;
            for word in words {
                out.write_all(&word.to_le_bytes())?;
            }
            Ok(())
        })
        .map_err(|error| DataError::Write {
            path: path.to_owned(),
            error,
        })
    }
}
