//! A whole tensor as a range of bytes of one file, which is copied and compared without a tensor in memory.

use crate::error::{EngineError, Result};
use rustix::fs::copy_file_range;
use rustix::io::Errno;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tch::Kind;

/// Bytes that are read at once.
const CHUNK: usize = 2 << 20;

/// Bytes that the kernel copies at once.
const AT_ONCE: u64 = 64 << 20;

/// A whole tensor in a file.
#[derive(Debug, Clone)]
pub(crate) struct Extent {
    pub(super) path: PathBuf,
    pub(super) file: Arc<File>,
    pub(super) first: u64,
    pub(super) bytes: u64,
    /// Data type of its values.
    pub(crate) kind: Kind,
    /// Shape of the tensor.
    pub(crate) shape: Vec<usize>,
}

impl Extent {
    /// Returns the number of its bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the extent of a tensor that begins at byte `first` of a file, which can be read.
    pub(crate) fn new(path: &Path, file: Arc<File>, first: u64, kind: Kind, shape: Vec<usize>) -> Self {
        let bytes = (shape.iter().product::<usize>() * kind.elt_size_in_bytes()) as u64;
        Self {
            path: path.to_owned(),
            file,
            first,
            bytes,
            kind,
            shape,
        }
    }

    /// Returns the path of the file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the device and the number of the file, and the first byte of the tensor. A file keeps them when it is renamed.
    ///
    /// # Errors
    /// The file has no metadata.
    pub(crate) fn place(&self) -> std::io::Result<[u64; 3]> {
        let file = self.file.metadata()?;
        Ok([file.dev(), file.ino(), self.first])
    }

    /// Appends the bytes to the file `target` at `path`, within the kernel where the file systems allow it. `wrote` is called with
    /// the number of bytes of each part.
    ///
    /// # Errors
    /// The file cannot be read, or `target` cannot be written.
    pub(crate) fn append_to(&self, mut target: &File, path: &Path, wrote: &mut dyn FnMut(u64)) -> Result<()> {
        let mut done = 0;
        while done < self.bytes {
            let mut from = self.first + done;
            let size = AT_ONCE.min(self.bytes - done) as usize;
            match copy_file_range(&*self.file, Some(&mut from), target, None, size) {
                // Too short: reading says so.
                Ok(0) => break,
                Ok(copied) => {
                    done += copied as u64;
                    wrote(copied as u64);
                }
                Err(Errno::INTR) => {}
                // Not between these file systems.
                Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM | Errno::IO) => break,
                Err(error) => return Err(EngineError::io("write", path)(error.into())),
            }
        }
        let mut buffer = Vec::new();
        while done < self.bytes {
            let part = self.read(done, &mut buffer)?;
            target.write_all(part).map_err(EngineError::io("write", path))?;
            done += part.len() as u64;
            wrote(part.len() as u64);
        }
        Ok(())
    }

    /// Returns whether two tensors have the same data type, shape and bytes. `name` is that of the tensor in messages.
    ///
    /// # Errors
    /// A file cannot be read, or both hold NaN or infinite values.
    pub(crate) fn equals(&self, other: &Self, name: &str) -> Result<bool> {
        if self.kind != other.kind || self.shape != other.shape || self.bytes != other.bytes {
            return Ok(false);
        }
        let (mut own, mut others, mut wrong) = (Vec::new(), Vec::new(), 0);
        for at in (0..self.bytes).step_by(CHUNK) {
            let part = self.read(at, &mut own)?;
            if part != other.read(at, &mut others)? {
                return Ok(false);
            }
            wrong += not_finite(self.kind, part);
        }
        if wrong == 0 {
            return Ok(true);
        }
        let count = self.bytes as usize / self.kind.elt_size_in_bytes();
        Err(EngineError::Weights {
            path: self.path.clone(),
            problems: vec![format!("`{name}` holds NaN or infinite values: {wrong} of {count}")],
        })
    }

    fn read<'a>(&self, at: u64, buffer: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        let size = CHUNK.min((self.bytes - at) as usize);
        if buffer.len() < size {
            buffer.resize(size, 0);
        }
        let part = &mut buffer[..size];
        let read = self.file.read_exact_at(part, self.first + at);
        read.map_err(EngineError::io("read", &self.path))?;
        Ok(part)
    }
}

/// Counts NaN and infinite values in whole values of a floating-point kind: their exponents have all bits set.
fn not_finite(kind: Kind, bytes: &[u8]) -> usize {
    // Exponents of all values of a word, and the lowest bit of each exponent, which carries into the sign's bit.
    let (exponents, carry, signs) = match kind {
        Kind::BFloat16 => (0x7f80_7f80_7f80_7f80, 0x0080_0080_0080_0080, 0x8000_8000_8000_8000),
        Kind::Half => (0x7c00_7c00_7c00_7c00, 0x0400_0400_0400_0400, 0x8000_8000_8000_8000),
        Kind::Float => (0x7f80_0000_7f80_0000, 0x0080_0000_0080_0000, 0x8000_0000_8000_0000_u64),
        _ => return 0,
    };
    let found = |word: u64| ((word & exponents) + carry) & signs;
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let any = words
        .iter()
        .fold(found(u64::from_le_bytes(last)), |any, word| any | found(u64::from_le_bytes(*word)));
    if any == 0 {
        return 0;
    }
    let words = words.iter().chain([&last]);
    words.map(|word| found(u64::from_le_bytes(*word)).count_ones() as usize).sum()
}
