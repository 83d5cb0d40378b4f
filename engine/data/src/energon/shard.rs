//! A shard: a tar archive of samples, with the index that gives the position of each.

use std::{
    fs::File,
    io,
    ops::Range,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{
    metadata::invalid,
    tar_walk::{Member, ReadAt, TarWalk, WalkError, split_name},
};
use crate::error::DataError;

/// A shard. Threads share it.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) path: PathBuf,
    /// Position of each sample's first header; the last entry is the end of the last sample.
    offsets: Vec<u64>,
    /// The open file, if it is one of the first [`MAX_OPEN`].
    kept: OnceLock<Arc<File>>,
}

/// Bytes that are read with the first header of a sample: a sample of text needs no other read.
const WINDOW: u64 = 8 << 10;

/// Number of shards whose files stay open, in this process. Systems allow 1024 files.
const MAX_OPEN: usize = 256;

static OPEN: AtomicUsize = AtomicUsize::new(0);

/// Maximum number of parts of one sample.
const MAX_PARTS: usize = 1 << 16;

impl Shard {
    /// Opens a shard that has `count` samples, and reads its index.
    ///
    /// # Errors
    /// The shard or its index is missing, or the index does not fit.
    pub(super) fn open(path: PathBuf, count: u64) -> Result<Self, DataError> {
        let size = match path.metadata() {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(invalid(
                    &path,
                    "",
                    "does not exist, but the metadata name it: copy the shard, or prepare the dataset again",
                ));
            }
            Err(error) => return Err(DataError::Read { path, error }),
        };
        let index = index_path(&path);
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => invalid(&index, "", format!("does not exist: {PREPARE}")),
            _ => DataError::Read {
                path: index.clone(),
                error,
            },
        };
        let found = index.metadata().map_err(failed)?.len();
        let expected = count.checked_add(1).and_then(|entries| entries.checked_mul(8));
        if expected != Some(found) {
            let needed = count.saturating_add(1).saturating_mul(8);
            return Err(invalid(
                &index,
                "",
                format!("has {found} bytes, but {count} samples need {needed}: {PREPARE}"),
            ));
        }
        let bytes = std::fs::read(&index).map_err(failed)?;
        let offsets: Vec<u64> = bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let wrong = offsets.iter().zip(offsets.iter().skip(1)).position(|(start, end)| start >= end);
        if let Some(entry) = wrong {
            return Err(invalid(
                &index,
                &format!("entry {}", entry + 1),
                format!("is not above the entry before it: {PREPARE}"),
            ));
        }
        if offsets.last().is_some_and(|end| *end > size) {
            let reason = format!(
                "points beyond the end of {}, which has {size} bytes: copy the shard again, or {PREPARE}",
                path.display()
            );
            return Err(invalid(&index, "", reason));
        }
        Ok(Self {
            path,
            offsets,
            kept: OnceLock::new(),
        })
    }

    /// Returns the positions of the samples.
    pub(super) fn offsets(&self) -> &[u64] {
        &self.offsets
    }

    fn range(&self, sample: usize) -> Result<Range<u64>, DataError> {
        match (self.offsets.get(sample), self.offsets.get(sample + 1)) {
            (Some(start), Some(end)) => Ok(*start..*end),
            _ => Err(DataError::Index {
                index: sample,
                len: self.offsets.len().saturating_sub(1),
            }),
        }
    }

    /// Returns key and parts of a sample, with the open file.
    ///
    /// # Errors
    /// The shard cannot be read, or the index is not of this shard.
    pub(super) fn sample(&self, sample: usize) -> Result<Located, DataError> {
        let range = self.range(sample)?;
        let file = self.file()?;
        let mut walk = TarWalk::new(Window::new(Arc::clone(&file)), range.clone());
        let mut located: Option<Located> = None;
        let index = index_path(&self.path);
        let misplaced = |reason: String| invalid(&index, &format!("entry {sample}"), format!("{reason}: {PREPARE}"));
        loop {
            let member = match walk.next() {
                Ok(Some(member)) => member,
                Ok(None) => break,
                Err(WalkError::Io(error)) => {
                    return Err(DataError::Read {
                        path: self.path.clone(),
                        error,
                    });
                }
                Err(WalkError::Broken(at, reason)) => return Err(self.broken(at, reason)),
            };
            let Some((key, part)) = split_name(&member.name) else { continue };
            let part = Place {
                name: part.to_owned(),
                content: member.content.clone(),
            };
            match &mut located {
                None => {
                    if member.start != range.start {
                        return Err(misplaced(format!(
                            "points at byte {}, but its sample {key} starts at byte {}",
                            range.start, member.start
                        )));
                    }
                    located = Some(Located {
                        key: key.to_owned(),
                        parts: vec![part],
                        first: Vec::new(),
                        first_at: 0,
                        file: Arc::clone(&file),
                    });
                }
                Some(located) if located.key == key => located.parts.push(part),
                Some(located) => return Err(misplaced(format!("has the files of two samples, {} and {key}", located.key))),
            }
            if located.as_ref().is_some_and(|located| located.parts.len() > MAX_PARTS) {
                return Err(misplaced(format!("is a sample of more than {MAX_PARTS} files")));
            }
        }
        let Some(mut located) = located else {
            return Err(misplaced(format!("points at byte {}, where no sample is", range.start)));
        };
        let window = walk.reader();
        (located.first, located.first_at) = (std::mem::take(&mut window.bytes), window.at);
        Ok(located)
    }

    /// Returns the key of a sample.
    ///
    /// # Errors
    /// As [`Self::sample`].
    pub(super) fn key(&self, sample: usize) -> Result<String, DataError> {
        let range = self.range(sample)?;
        let mut walk = TarWalk::new(Window::new(self.file()?), range.clone());
        loop {
            match walk.next() {
                Ok(Some(member)) => {
                    if let Some((key, _)) = split_name(&member.name) {
                        return Ok(key.to_owned());
                    }
                }
                Ok(None) => {
                    let reason = format!("points at byte {}, where no sample is: {PREPARE}", range.start);
                    return Err(invalid(&index_path(&self.path), &format!("entry {sample}"), reason));
                }
                Err(WalkError::Io(error)) => {
                    return Err(DataError::Read {
                        path: self.path.clone(),
                        error,
                    });
                }
                Err(WalkError::Broken(at, reason)) => return Err(self.broken(at, reason)),
            }
        }
    }

    fn broken(&self, at: u64, reason: String) -> DataError {
        invalid(&self.path, &format!("byte {at}"), reason)
    }

    fn file(&self) -> Result<Arc<File>, DataError> {
        if let Some(file) = self.kept.get() {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(File::open(&self.path).map_err(|error| DataError::Read {
            path: self.path.clone(),
            error,
        })?);
        let keeps = |open: usize| (open < MAX_OPEN).then_some(open + 1);
        if OPEN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, keeps).is_ok() && self.kept.set(Arc::clone(&file)).is_err() {
            // Another thread was first.
            OPEN.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(file)
    }
}

impl Drop for Shard {
    fn drop(&mut self) {
        if self.kept.get().is_some() {
            OPEN.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Advice about an index that does not fit.
const PREPARE: &str = "write the metadata again with `neva-run data prepare FOLDER --force-overwrite`";

/// Returns the path of a shard's index.
pub(super) fn index_path(shard: &Path) -> PathBuf {
    let mut name = shard.as_os_str().to_owned();
    name.push(".idx");
    PathBuf::from(name)
}

/// A sample of a shard, with the positions of its parts.
pub(super) struct Located {
    pub(super) key: String,
    pub(super) parts: Vec<Place>,
    /// Bytes from `first_at` on, which are read already.
    pub(super) first: Vec<u8>,
    pub(super) first_at: u64,
    pub(super) file: Arc<File>,
}

/// Name of a part, and position of its content in the shard.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) name: String,
    pub(super) content: Range<u64>,
}

impl Located {
    /// Reads the content of a part.
    pub(super) fn read(&self, content: &Range<u64>) -> io::Result<Vec<u8>> {
        let size = usize::try_from(content.end - content.start).unwrap_or(usize::MAX);
        if let Some(from) = content.start.checked_sub(self.first_at).and_then(|from| usize::try_from(from).ok())
            && let Some(bytes) = self.first.get(from..from.saturating_add(size))
        {
            return Ok(bytes.to_vec());
        }
        let mut bytes = vec![0; size];
        self.file.read_exact_at(&mut bytes, content.start)?;
        Ok(bytes)
    }
}

/// Reads headers from a window of the file, which moves where it must.
struct Window {
    file: Arc<File>,
    at: u64,
    bytes: Vec<u8>,
}

impl Window {
    fn new(file: Arc<File>) -> Self {
        let bytes = Vec::new();
        Self { file, at: 0, bytes }
    }
}

impl ReadAt for Window {
    fn read_exact_at(&mut self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        let cached = |window: &Self| {
            let from = usize::try_from(at.checked_sub(window.at)?).ok()?;
            window.bytes.get(from..from.checked_add(bytes.len())?).map(<[u8]>::to_vec)
        };
        if let Some(found) = cached(self) {
            bytes.copy_from_slice(&found);
            return Ok(());
        }
        if !self.bytes.is_empty() {
            // Only the start of a sample is kept: the headers behind an image are far apart.
            return self.file.read_exact_at(bytes, at);
        }
        self.bytes.resize(WINDOW as usize, 0);
        self.at = at;
        let mut filled = 0;
        while filled < self.bytes.len() {
            match self.file.read_at(&mut self.bytes[filled..], at + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.bytes.truncate(filled);
        match self.bytes.get(..bytes.len()) {
            Some(found) => {
                bytes.copy_from_slice(found);
                Ok(())
            }
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// Reads all members of an archive, for its preparation.
pub(super) struct WholeFile(pub(super) File);

impl ReadAt for WholeFile {
    fn read_exact_at(&mut self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        self.0.read_exact_at(bytes, at)
    }
}

/// Walks through a whole archive.
pub(super) fn members(file: File, size: u64) -> TarWalk<WholeFile> {
    TarWalk::new(WholeFile(file), 0..size)
}

impl Member {
    /// Returns key and part of the member's sample.
    pub(super) fn split(&self) -> Option<(&str, &str)> {
        split_name(&self.name)
    }
}
