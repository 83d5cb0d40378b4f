//! A whole tensor as a range of bytes of one file, which is copied and compared without a tensor in memory.

use crate::error::{EngineError, Result};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use tch::Kind;

/// Bytes that are read at once.
const CHUNK: usize = 8 << 20;

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

    /// Passes the bytes to `sink` in parts of some MiB, in order. `name` is that of the tensor in messages.
    ///
    /// # Errors
    /// The file cannot be read, the tensor holds NaN or infinite values, or `sink` fails.
    pub(crate) fn stream(&self, name: &str, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let (mut buffer, mut wrong) = (Vec::new(), 0);
        for at in (0..self.bytes).step_by(CHUNK) {
            let part = self.read(at, &mut buffer)?;
            wrong += not_finite(self.kind, part);
            sink(part)?;
        }
        if wrong == 0 {
            return Ok(());
        }
        let count = self.bytes as usize / self.kind.elt_size_in_bytes();
        Err(EngineError::Weights {
            path: self.path.clone(),
            problems: vec![format!("`{name}` holds NaN or infinite values: {wrong} of {count}")],
        })
    }

    /// Returns whether two tensors have the same data type, shape and bytes.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(crate) fn equals(&self, other: &Self) -> Result<bool> {
        if self.kind != other.kind || self.shape != other.shape || self.bytes != other.bytes {
            return Ok(false);
        }
        let (mut own, mut others) = (Vec::new(), Vec::new());
        for at in (0..self.bytes).step_by(CHUNK) {
            if self.read(at, &mut own)? != other.read(at, &mut others)? {
                return Ok(false);
            }
        }
        Ok(true)
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
