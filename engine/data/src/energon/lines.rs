//! A `.jsonl` file: every line is the part `json` of a sample.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use super::{metadata::invalid, raw_sample::RawSample};
use crate::error::DataError;

/// Maximum length of a line, in bytes.
const MAX_LINE: u64 = 256 << 20;

/// Samples in lines of JSON.
#[derive(Debug)]
pub(super) struct Lines {
    name: String,
    path: PathBuf,
    file: File,
    /// Start of each line, and the end of the last one.
    starts: Vec<u64>,
}

impl Lines {
    /// Opens a file, and finds its lines. Energon's index (`.jsonl.idx`) is not needed.
    ///
    /// # Errors
    /// The file cannot be read, has an empty line before its end, or no line.
    pub(super) fn open(path: &Path) -> Result<Self, DataError> {
        let failed = |error| DataError::Read {
            path: path.to_owned(),
            error,
        };
        let file = File::open(path).map_err(failed)?;
        let mut reader = BufReader::with_capacity(1 << 20, &file);
        let (mut starts, mut at, mut start, mut is_blank, mut blank) = (Vec::new(), 0u64, 0u64, true, None);
        let mut finish = |start: u64, end: u64, is_blank: bool| {
            match (is_blank, blank) {
                (true, None) => blank = Some(starts.len()),
                (false, Some(line)) => {
                    let reason = "is empty: remove it, every line is a sample";
                    return Err(invalid(path, &format!("line {}", line + 1), reason));
                }
                (false, None) => starts.push(start),
                (true, Some(_)) => {}
            }
            match end - start > MAX_LINE {
                true => Err(invalid(
                    path,
                    &format!("line {}", starts.len()),
                    format!("is longer than {MAX_LINE} bytes"),
                )),
                false => Ok(()),
            }
        };
        loop {
            let bytes = reader.fill_buf().map_err(failed)?;
            if bytes.is_empty() {
                break;
            }
            let len = bytes.len();
            let mut from = 0;
            for newline in memchr::memchr_iter(b'\n', bytes) {
                is_blank = is_blank && bytes[from..newline].iter().all(u8::is_ascii_whitespace);
                let end = at + newline as u64 + 1;
                finish(start, end, is_blank)?;
                (start, from, is_blank) = (end, newline + 1, true);
            }
            is_blank = is_blank && bytes[from..].iter().all(u8::is_ascii_whitespace);
            at += len as u64;
            reader.consume(len);
        }
        if start < at {
            finish(start, at, is_blank)?;
        }
        if starts.is_empty() {
            return Err(invalid(path, "", "has no line: every line is a sample"));
        }
        // Empty lines at the end belong to the last line, whose JSON ends before them.
        starts.push(at);
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self {
            name,
            path: path.to_owned(),
            file,
            starts,
        })
    }

    pub(super) fn len(&self) -> u64 {
        self.starts.len().saturating_sub(1) as u64
    }

    pub(super) fn raw(&self, index: u64) -> Result<RawSample, DataError> {
        let at = index as usize;
        let (Some(start), Some(end)) = (self.starts.get(at), self.starts.get(at + 1)) else {
            return Err(DataError::Index {
                index: at,
                len: self.len() as usize,
            });
        };
        let mut line = vec![0; (end - start) as usize];
        self.file.read_exact_at(&mut line, *start).map_err(|error| DataError::Read {
            path: self.path.clone(),
            error,
        })?;
        Ok(RawSample::of_line(&self.name, at, line))
    }

    pub(super) fn name(&self, index: u64) -> String {
        format!("{}: sample {index}", self.name)
    }

    pub(super) fn identify(&self, hasher: &mut blake3::Hasher) {
        hasher.update(self.name.as_bytes());
        self.starts.iter().for_each(|start| {
            hasher.update(&start.to_le_bytes());
        });
    }
}
