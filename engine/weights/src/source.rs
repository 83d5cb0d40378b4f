//! An open file with its length. Reads are checked against the length before memory is allocated.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use crate::error::{Result, WeightsError};

/// Advice for a damaged file.
pub(crate) const AGAIN: &str = "download or copy the file again";

/// An open file.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    pub(crate) len: u64,
}

impl Source {
    /// Opens a regular file.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(WeightsError::io("read", path))?;
        let data = file.metadata().map_err(WeightsError::io("read", path))?;
        let source = Self {
            path: path.to_owned(),
            file,
            len: data.len(),
        };
        if !data.is_file() {
            return Err(source.wrong("not a regular file", ""));
        }
        Ok(source)
    }

    /// Returns an error of the content.
    pub(crate) fn wrong(&self, reason: impl Into<String>, help: &'static str) -> WeightsError {
        WeightsError::Content {
            path: self.path.clone(),
            reason: reason.into(),
            help,
        }
    }

    /// Returns the error of a file that is shorter than it says.
    pub(crate) fn truncated(&self, what: &str) -> WeightsError {
        self.wrong(format!("truncated: {what}"), AGAIN)
    }

    /// Reads `len` bytes at `offset`.
    pub(crate) fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>> {
        let end = offset.checked_add(len).filter(|end| *end <= self.len);
        let (Some(_), Ok(len)) = (end, usize::try_from(len)) else {
            return Err(self.truncated(&format!("it has {} bytes, but {len} at {offset} are needed", self.len)));
        };
        let mut buffer = vec![0; len];
        self.read_exact(&mut buffer, offset)?;
        Ok(buffer)
    }

    /// Fills `buffer` from `offset`.
    pub(crate) fn read_exact(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.file
            .read_exact_at(buffer, offset)
            .map_err(WeightsError::io("read", &self.path))
    }

    /// Returns a reader of the bytes from `start` to `end`.
    pub(crate) fn reader(&self, start: u64, end: u64) -> Reader<'_> {
        Reader {
            source: self,
            at: start,
            end: end.min(self.len),
            inner: BufReader::new(At {
                file: &self.file,
                at: start,
            }),
        }
    }
}

/// Buffered reader of a range of a file.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    pub(crate) source: &'a Source,
    /// Position in the file.
    pub(crate) at: u64,
    end: u64,
    inner: BufReader<At<'a>>,
}

impl Reader<'_> {
    /// Returns the number of bytes to the end.
    pub(crate) fn rest(&self) -> u64 {
        self.end.saturating_sub(self.at)
    }

    /// Reads `len` bytes.
    pub(crate) fn bytes(&mut self, len: u64) -> Result<Vec<u8>> {
        let size = usize::try_from(len).ok().filter(|_| len <= self.rest());
        let Some(size) = size else {
            return Err(self
                .source
                .truncated(&format!("{len} bytes are needed at {}, but {} follow", self.at, self.rest())));
        };
        let mut buffer = vec![0; size];
        self.fill(&mut buffer)?;
        Ok(buffer)
    }

    /// Reads `N` bytes.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        if self.rest() < N as u64 {
            return Err(self.source.truncated(&format!("it ends at {}", self.end)));
        }
        let mut buffer = [0; N];
        self.fill(&mut buffer)?;
        Ok(buffer)
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<()> {
        self.inner.read_exact(buffer).map_err(WeightsError::io("read", &self.source.path))?;
        self.at += buffer.len() as u64;
        Ok(())
    }
}

/// Reads at a position of its own.
#[derive(Debug)]
struct At<'a> {
    file: &'a File,
    at: u64,
}

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}
