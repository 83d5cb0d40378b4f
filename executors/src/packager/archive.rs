//! The archive: every name is within it, none occurs twice, and equal files give equal bytes.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read, Write as _},
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::{Component, Path, PathBuf},
};

use tar::{Builder, EntryType, Header};
use tempfile::NamedTempFile;

use crate::{packager_error::PackagerError, tunnel::hash_file};

/// Time of every file, 2000-01-01: tools warn of older ones.
const MTIME: u64 = 946_684_800;

/// An archive that is being written.
pub(super) struct Archive {
    builder: Builder<NamedTempFile>,
    /// Names so far; true for a folder.
    names: BTreeMap<PathBuf, bool>,
    files: usize,
}

impl Archive {
    pub(super) fn new() -> Result<Self, PackagerError> {
        let file = NamedTempFile::new().map_err(|source| failed("create", &std::env::temp_dir(), source))?;
        Ok(Self {
            builder: Builder::new(file),
            names: BTreeMap::new(),
            files: 0,
        })
    }

    /// Returns the number of files and links.
    pub(super) fn num_files(&self) -> usize {
        self.files
    }

    /// Adds the local file, link or folder at `path` as `name`.
    pub(super) fn add_local(&mut self, name: &Path, path: &Path) -> Result<(), PackagerError> {
        let failed = |source| failed("read", path, source);
        let metadata = fs::symlink_metadata(path).map_err(failed)?;
        if metadata.is_symlink() {
            let target = fs::read_link(path).map_err(failed)?;
            return self.add_link(name, &target);
        }
        if !metadata.is_file() {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "it is not a file");
            return Err(failed(error));
        }
        let file = File::open(path).map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        let is_executable = metadata.permissions().mode() & 0o100 != 0;
        // A file that grows meanwhile is cut, and one that shrinks is an error: the archive stays well-formed.
        self.add_file(name, len, is_executable, file.take(len))
    }

    /// Adds a file with the contents of `content`, of `len` bytes.
    pub(super) fn add_file(&mut self, name: &Path, len: u64, is_executable: bool, content: impl Read) -> Result<(), PackagerError> {
        self.claim(name)?;
        let mut header = header(EntryType::Regular, if is_executable { 0o755 } else { 0o644 });
        header.set_size(len);
        self.files += 1;
        let mut counted = Counted { inner: content, bytes: 0 };
        let added = self.builder.append_data(&mut header, name, &mut counted);
        added.map_err(|source| failed("read", name, source))?;
        if counted.bytes == len {
            Ok(())
        } else {
            Err(failed(
                "read",
                name,
                io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter meanwhile"),
            ))
        }
    }

    /// Adds a symbolic link.
    pub(super) fn add_link(&mut self, name: &Path, target: &Path) -> Result<(), PackagerError> {
        self.claim(name)?;
        let mut header = header(EntryType::Symlink, 0o777);
        self.files += 1;
        let added = self.builder.append_link(&mut header, name, target);
        added.map_err(|source| failed("read", name, source))
    }

    /// Writes the end, and returns the archive and its hash.
    pub(super) fn finish(self) -> Result<(NamedTempFile, String), PackagerError> {
        let mut file = self
            .builder
            .into_inner()
            .map_err(|source| failed("write", Path::new("the archive"), source))?;
        file.flush().map_err(|source| failed("write", file.path(), source))?;
        let hash = hash_file(file.path()).map_err(|source| failed("read", file.path(), io::Error::other(source)))?;
        Ok((file, hash))
    }

    /// Checks that `name` is a relative path without `..`, that it is new, and that no file or link is above it: unpacking
    /// would follow a link out of the folder.
    fn claim(&mut self, name: &Path) -> Result<(), PackagerError> {
        let is_normal = |part: Component<'_>| matches!(part, Component::Normal(_));
        let has_odd_bytes = name.as_os_str().as_bytes().contains(&0);
        if name.as_os_str().is_empty() || has_odd_bytes || !name.components().all(is_normal) {
            return Err(PackagerError::Unsafe { path: name.to_owned() });
        }
        let twice = || Err(PackagerError::Twice { path: name.to_owned() });
        if self.names.contains_key(name) {
            return twice();
        }
        for above in name.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()) {
            if self.names.get(above) == Some(&false) {
                return twice();
            }
            self.names.insert(above.to_owned(), true);
        }
        self.names.insert(name.to_owned(), false);
        Ok(())
    }
}

/// Counts the bytes that are read.
struct Counted<R> {
    inner: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.bytes += read as u64;
        Ok(read)
    }
}

fn header(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(MTIME);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    header
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> PackagerError {
    PackagerError::File {
        action,
        path: path.to_owned(),
        source,
    }
}
