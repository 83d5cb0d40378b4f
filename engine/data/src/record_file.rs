//! Files of records: a JSON list (`.json`) or one record a line (`.jsonl`).
//!
//! A file is never in memory as a whole. Opening it finds the byte range of each record, about eight bytes a record, and
//! a record is read and parsed when it is used. The index is saved in the user's cache folder, so that the next open does
//! not scan the file.

mod encoding;
mod lines;
mod list;
mod parse;
mod pipe;
mod saved_index;
mod scan;
mod spans;

use std::{
    fs::{File, Metadata},
    io::{self, Read as _},
    ops::Range,
    os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use neva_schemas::env;
use serde_json::Value;

use crate::problem::Problem;
use saved_index::Index;
use scan::scan;

/// Number of bytes that are read at once.
const CHUNK: usize = 1 << 20;

/// Longest wait for a program that writes to a pipe.
const PIPE_DEADLINE: Duration = Duration::from_secs(60);

/// Form of a record file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A JSON list of records.
    List,
    /// JSON Lines: one record a line. Blank lines are no records.
    Lines,
}

impl Form {
    /// Returns the form of a file by its name: `.jsonl` has lines, any other name is a list.
    pub fn of(path: &Path) -> Self {
        let is_lines = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("jsonl"));
        if is_lines { Self::Lines } else { Self::List }
    }
}

/// Error of reading one record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file cannot be read, or was changed after it was opened.
    #[error("cannot be read: {0}")]
    Read(io::Error),
    /// The record is not JSON.
    #[error("{0}")]
    Content(String),
}

/// An open record file with the byte range of each record.
#[derive(Debug)]
pub struct RecordFile {
    path: PathBuf,
    source: Source,
    index: Index,
}

#[derive(Debug)]
enum Source {
    File {
        file: File,
        metadata: Metadata,
    },
    /// A pipe, which can be read only once, or the first part of a file.
    Memory(Vec<u8>),
}

impl RecordFile {
    /// Returns the folder of saved indices: `$XDG_CACHE_HOME/neva-run/records`, or `~/.cache/neva-run/records`. `lookup`
    /// returns environment variables. `None`: no home is known.
    pub fn cache_folder(lookup: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
        let set = |name: &str| lookup(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        // The XDG specification has relative paths ignored.
        let cache = set(env::XDG_CACHE_HOME).filter(|path| path.is_absolute());
        let cache = cache.or_else(|| Some(set(env::HOME)?.join(".cache")))?;
        Some(cache.join("neva-run/records"))
    }

    /// Opens a file. Its index comes from the folder `cache` if the file did not change since the index was saved there;
    /// otherwise the file is scanned, and the index is saved. `None`: nothing is saved.
    ///
    /// # Errors
    /// Returns the problem of a file that cannot be read, is not UTF-8 or not a list of records. The contents of records
    /// are checked when they are read.
    pub fn open(path: &Path, cache: Option<&Path>) -> Result<Self, Problem> {
        Self::open_within(PIPE_DEADLINE, path, cache)
    }

    /// Opens a file as [`Self::open`] does, which waits a minute for a program that writes to a pipe. This waits for `deadline`.
    ///
    /// # Errors
    /// Those of [`Self::open`].
    pub fn open_within(deadline: Duration, path: &Path, cache: Option<&Path>) -> Result<Self, Problem> {
        let unreadable = |error: io::Error| file_problem(path, format!("cannot be read: {error}"));
        if path.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo()) {
            let bytes = pipe::read(path, deadline).map_err(unreadable)?;
            return Self::in_memory(path, bytes, true);
        }
        let mut file = File::open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        if !metadata.is_file() {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).map_err(unreadable)?;
            return Self::in_memory(path, bytes, true);
        }
        let identity = saved_index::identity(&file, &metadata).map_err(unreadable)?;
        let form = Form::of(path);
        let saved = cache.and_then(|cache| saved_index::read(cache, path, &identity, metadata.len()));
        if let Some(index) = saved.filter(|index| index.form == form) {
            let source = Source::File { file, metadata };
            return Ok(Self {
                path: path.to_owned(),
                source,
                index,
            });
        }
        let read = |buffer: &mut [u8], offset: u64| file.read_at(buffer, offset);
        let index = scan(path, read, true)?;
        let after = file.metadata().map_err(unreadable)?;
        if !same(&metadata, &after) {
            return Err(file_problem(
                path,
                "was changed while it was read: start again when it is complete".to_owned(),
            ));
        }
        if let Some(cache) = cache {
            // A cache that cannot be written costs a scan at the next start, nothing else.
            let _ = saved_index::write(cache, path, &identity, &index);
        }
        let source = Source::File { file, metadata };
        Ok(Self {
            path: path.to_owned(),
            source,
            index,
        })
    }

    /// Opens the records within the first `bytes` of a file, for a check that must not take long.
    ///
    /// # Errors
    /// Returns the problems of [`open`](Self::open) that this part shows.
    pub fn open_first(path: &Path, bytes: usize) -> Result<Self, Problem> {
        let unreadable = |error: io::Error| file_problem(path, format!("cannot be read: {error}"));
        let file = File::open(path).map_err(unreadable)?;
        let mut head = Vec::new();
        let read = file.take(bytes as u64 + 1).read_to_end(&mut head).map_err(unreadable)?;
        head.truncate(bytes);
        Self::in_memory(path, head, read <= bytes)
    }

    fn in_memory(path: &Path, bytes: Vec<u8>, whole: bool) -> Result<Self, Problem> {
        let read = |buffer: &mut [u8], offset: u64| {
            let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..));
            rest.unwrap_or_default().read(buffer)
        };
        let index = scan(path, read, whole)?;
        Ok(Self {
            path: path.to_owned(),
            source: Source::Memory(bytes),
            index,
        })
    }

    /// Returns the path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the form of the file.
    #[must_use]
    pub fn form(&self) -> Form {
        self.index.form
    }

    /// Returns the number of records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.spans.len()
    }

    /// Returns whether there are no records.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the BLAKE3 hash of the file's content, in hexadecimal. Skip lists and length indices name files by it.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        blake3::Hash::from_bytes(self.index.fingerprint).to_hex().to_string()
    }

    /// Reads and parses the record at `index`.
    ///
    /// # Errors
    /// Returns an error if the record cannot be read or is not JSON.
    pub fn value(&self, index: usize) -> Result<Value, RecordError> {
        let range = self.index.spans.get(index);
        let range = range.ok_or_else(|| {
            let reason = format!("there is no record {index} in a file of {}", self.len());
            RecordError::Read(io::Error::new(io::ErrorKind::InvalidInput, reason))
        })?;
        let mut bytes = vec![0; (range.end - range.start) as usize];
        let read = self.read_exact(&mut bytes, range.start);
        read.map_err(|error| RecordError::Read(self.changed().unwrap_or(error)))?;
        parse::parse(&bytes, range.start, &self.path)
            .map_err(|reason| self.changed().map_or(RecordError::Content(reason), RecordError::Read))
    }

    /// Reads and parses all records in order, as [`each_of`](Self::each_of) does.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, or was changed after it was opened.
    pub fn each(&self, visit: impl FnMut(usize, Result<Value, String>) -> bool) -> io::Result<()> {
        self.each_of(0..self.len(), visit)
    }

    /// Reads and parses some records in order, a few at a time in memory, until `visit` returns `false`. A record that is
    /// not JSON is passed with the reason.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, or was changed after it was opened.
    pub fn each_of(&self, records: Range<usize>, mut visit: impl FnMut(usize, Result<Value, String>) -> bool) -> io::Result<()> {
        let last = records.clone().next_back().and_then(|last| self.index.spans.get(last));
        let end = last.map_or(0, |range| range.end);
        let (mut window, mut base) = (Vec::new(), 0);
        for (index, range) in records.filter_map(|index| Some((index, self.index.spans.get(index)?))) {
            if range.end > base + window.len() as u64 {
                let wanted = (range.end - range.start).max((CHUNK as u64).min(end - range.start));
                base = range.start;
                window.resize(wanted as usize, 0);
                let read = self.read_exact(&mut window, base);
                read.map_err(|error| self.changed().unwrap_or(error))?;
            }
            let bytes = window.get((range.start - base) as usize..(range.end - base) as usize);
            let value = parse::parse(bytes.unwrap_or_default(), range.start, &self.path);
            if let Some(changed) = value.as_ref().err().and_then(|_| self.changed()) {
                return Err(changed);
            }
            if !visit(index, value) {
                break;
            }
        }
        Ok(())
    }

    fn read_exact(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match &self.source {
            Source::File { file, .. } => file.read_exact_at(buffer, offset),
            Source::Memory(bytes) => {
                let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..));
                rest.unwrap_or_default().read_exact(buffer)
            }
        }
    }

    /// Returns an error if the file was changed after it was opened, which explains any other one.
    fn changed(&self) -> Option<io::Error> {
        let Source::File { file, metadata } = &self.source else {
            return None;
        };
        let now = file.metadata().ok()?;
        (!same(metadata, &now)).then(|| io::Error::other("the file was changed after it was opened: start again"))
    }
}

fn same(a: &Metadata, b: &Metadata) -> bool {
    let of = |metadata: &Metadata| (metadata.len(), metadata.mtime(), metadata.mtime_nsec());
    of(a) == of(b)
}

/// Returns a problem of a whole file.
pub(crate) fn file_problem(path: &Path, reason: String) -> Problem {
    Problem {
        file: Arc::from(path.display().to_string()),
        record: None,
        id: None,
        field: None,
        reason,
    }
}
