//! Index of a record file, saved in the user's cache folder.
//!
//! A record file has one saved index, named by the hash of its path. The index holds the file's identity: size, time of
//! change and sampled content. An index of another identity, or one that is not whole, is ignored and written again.

use std::{
    fs::{File, Metadata},
    io::{self, BufReader, Read, Write},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use super::{Form, spans::Spans};
use crate::staged_file::replace_file;

/// First bytes of a saved index. The number changes with the format and with the scanners.
const MAGIC: &[u8; 16] = b"neva-records-01\n";

/// Number of blocks of a file that belong to its identity, and their size in bytes.
const BLOCKS: u64 = 16;
const BLOCK: usize = 4096;

/// What an index states about its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Index {
    pub(super) form: Form,
    pub(super) spans: Spans,
    /// Hash of the whole content.
    pub(super) fingerprint: [u8; 32],
}

/// Returns the hash of what shows that a file was changed: size, time of change, and blocks of its content at equal
/// distances.
pub(super) fn identity(file: &File, metadata: &Metadata) -> io::Result<[u8; 32]> {
    let size = metadata.len();
    let mut hasher = blake3::Hasher::new();
    for number in [size, metadata.mtime() as u64, metadata.mtime_nsec() as u64] {
        hasher.update(&number.to_le_bytes());
    }
    let mut block = vec![0; BLOCK];
    let last = size.saturating_sub(BLOCK as u64);
    for number in 0..BLOCKS {
        let start = (u128::from(last) * u128::from(number) / u128::from(BLOCKS - 1)) as u64;
        let read = file.read_at(&mut block, start)?;
        hasher.update(block.get(..read).unwrap_or_default());
    }
    Ok(*hasher.finalize().as_bytes())
}

/// Returns the path of the saved index of `path`.
fn saved_path(cache: &Path, path: &Path) -> PathBuf {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let hash = blake3::hash(path.as_os_str().as_encoded_bytes()).to_hex();
    cache.join(format!("{}.index", hash.get(..32).unwrap_or_default()))
}

/// Reads the saved index of `path`, if there is one of this identity.
pub(super) fn read(cache: &Path, path: &Path, identity: &[u8; 32], size: u64) -> Option<Index> {
    let file = File::open(saved_path(cache, path)).ok()?;
    let mut file = Hashed::new(BufReader::new(file));
    let magic: [u8; 16] = file.array().ok()?;
    let own: [u8; 32] = file.array().ok()?;
    if magic != *MAGIC || own != *identity {
        return None;
    }
    let form = match file.array::<1>().ok()? {
        [0] => Form::List,
        [1] => Form::Lines,
        _ => return None,
    };
    let fingerprint = file.array().ok()?;
    let spans = Spans::read(&mut file, size).ok()?;
    let hash = *file.hasher.finalize().as_bytes();
    (file.array::<32>().ok()? == hash).then_some(Index { form, spans, fingerprint })
}

/// Saves an index.
pub(super) fn write(cache: &Path, path: &Path, identity: &[u8; 32], index: &Index) -> io::Result<()> {
    std::fs::create_dir_all(cache)?;
    replace_file(&saved_path(cache, path), |out| {
        let mut out = Hashed::new(out);
        out.write_all(MAGIC)?;
        out.write_all(identity)?;
        out.write_all(&[u8::from(index.form == Form::Lines)])?;
        out.write_all(&index.fingerprint)?;
        index.spans.write(&mut out)?;
        let hash = *out.hasher.finalize().as_bytes();
        out.inner.write_all(&hash)
    })
}

/// Reader or writer that hashes the bytes that pass through it.
struct Hashed<T> {
    inner: T,
    hasher: blake3::Hasher,
}

impl<T> Hashed<T> {
    fn new(inner: T) -> Self {
        let hasher = blake3::Hasher::new();
        Self { inner, hasher }
    }
}

impl<T: Read> Hashed<T> {
    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

impl<T: Read> Read for Hashed<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(buffer.get(..read).unwrap_or_default());
        Ok(read)
    }
}

impl<T: Write> Write for Hashed<T> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.hasher.update(buffer.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
