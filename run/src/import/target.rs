//! Target folder of an import. Files are written to a staging directory, which is renamed when it is complete.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use neva_weights::{Unsynced, WriteBack};

use super::{
    ImportError,
    plan::{Content, Plan, Planned},
    size_of,
};
use crate::hub::CONFIG;

/// Extension of files that are linked from the hub's cache, not copied: the cached files never change.
const LINKED: &str = ".safetensors";

/// Bytes that are compared at once.
const COMPARED: usize = 1 << 20;

/// Bytes that are copied before the disk is given work.
const AT_ONCE: u64 = 64 << 20;

/// The target folder of a model, and its source folder.
pub(super) struct Target<'a> {
    pub(super) path: PathBuf,
    pub(super) source: &'a Path,
    /// The source is in the hub's cache.
    pub(super) is_hub: bool,
}

impl Target<'_> {
    /// Writes the files to the target. Returns whether they already existed.
    ///
    /// # Errors
    /// The target is another model and `overwrite` is not set; another process imports to it; a file cannot be written.
    pub(super) fn put(&self, plan: &Plan, overwrite: bool) -> Result<bool, ImportError> {
        let is_source = fs::canonicalize(self.source).ok() == fs::canonicalize(&self.path).ok();
        if is_source && plan.usable_in_place {
            return Ok(true);
        }
        let parent = self.path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(parent).map_err(|source| ImportError::io("create", parent, source))?;
        let _lock = self.lock()?;
        if self.path.exists() {
            if !self.path.is_dir() {
                let path = self.path.clone();
                return Err(ImportError::NoFolder { path });
            }
            let has_files = self.has_files(&plan.files)?;
            if !has_files && !self.is_replaceable() {
                let path = self.path.clone();
                return Err(ImportError::NoModel { path });
            }
            match has_files {
                true if !overwrite => return Ok(true),
                false if !overwrite => {
                    let path = self.path.clone();
                    return Err(ImportError::Exists { path });
                }
                _ => {}
            }
        }
        let stage = self.hidden("importing");
        remove(&stage)?;
        let written = self.fill(&stage, &plan.files).and_then(|()| self.exchange(&stage));
        if written.is_err() {
            // The next import removes leftovers.
            let _ = fs::remove_dir_all(&stage);
        }
        written.map(|()| false)
    }

    /// Returns whether the target is a model or empty. Another folder would lose what is in it, the source perhaps.
    fn is_replaceable(&self) -> bool {
        let holds_source = match (fs::canonicalize(self.source), fs::canonicalize(&self.path)) {
            (Ok(source), Ok(target)) => source != target && source.starts_with(target),
            _ => false,
        };
        let is_empty = || fs::read_dir(&self.path).is_ok_and(|mut entries| entries.next().is_none());
        !holds_source && (self.path.join(CONFIG).is_file() || is_empty())
    }

    /// Returns the hidden path next to the target for `purpose`.
    fn hidden(&self, purpose: &str) -> PathBuf {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        self.path.with_file_name(format!(".{name}.{purpose}"))
    }

    fn lock(&self) -> Result<File, ImportError> {
        let path = self.hidden("lock");
        let failed = |source| ImportError::io("lock", &path, source);
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(ImportError::Locked { path: self.path.clone() }),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// Returns whether the target has exactly these files.
    fn has_files(&self, files: &[Planned]) -> Result<bool, ImportError> {
        let target = &self.path;
        let entries = fs::read_dir(target).map_err(|source| ImportError::io("read", target, source))?;
        let others = entries
            .filter_map(Result::ok)
            .any(|entry| !files.iter().any(|file| entry.file_name() == file.name.as_str()));
        if others {
            return Ok(false);
        }
        for file in files {
            let there = self.path.join(&file.name);
            if !there.is_file() || size_of(&there)? != file.len_bytes()? {
                return Ok(false);
            }
            let read = |source| ImportError::io("read", &there, source);
            let is_same = match &file.content {
                Content::File(from) => has_same_bytes(from, &there).map_err(read)?,
                Content::Bytes(bytes) => fs::read(&there).map_err(read)? == *bytes,
                Content::Shard(tensors, shard) => shard.is_in(&there, &mut |index, output| tensors.write(index, output))?,
            };
            if !is_same {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Writes the files, and waits until all of them are on disk.
    fn fill(&self, stage: &Path, files: &[Planned]) -> Result<(), ImportError> {
        fs::create_dir(stage).map_err(|source| ImportError::io("create", stage, source))?;
        let mut unsynced = Unsynced::default();
        for file in files {
            let to = stage.join(&file.name);
            let written = match &file.content {
                Content::File(from) => {
                    if self.is_hub && to.to_string_lossy().ends_with(LINKED) {
                        let blob = fs::canonicalize(from).map_err(|source| ImportError::io("read", from, source))?;
                        // Hard links fail across file systems.
                        if fs::hard_link(blob, &to).is_ok() {
                            continue;
                        }
                    }
                    copy(from, &to)?
                }
                Content::Bytes(bytes) => put(&to, bytes)?,
                Content::Shard(tensors, shard) => shard.write(&to, &mut |index, output| tensors.write(index, output))?,
            };
            unsynced.add(written)?;
        }
        Ok(unsynced.finish()?)
    }

    /// Renames the staging directory to the target, and removes the old target.
    fn exchange(&self, stage: &Path) -> Result<(), ImportError> {
        let failed = |source| ImportError::io("write", &self.path, source);
        let old = self.hidden("replaced");
        remove(&old)?;
        if self.path.exists() {
            fs::rename(&self.path, &old).map_err(failed)?;
        }
        if let Err(error) = fs::rename(stage, &self.path) {
            let _ = fs::rename(&old, &self.path);
            return Err(failed(error));
        }
        remove(&old)
    }
}

/// Returns whether two files of the same size have the same bytes.
fn has_same_bytes(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    let identity = |file: &File| file.metadata().map(|data| (data.dev(), data.ino()));
    // Files of the hub's cache are linked.
    if identity(&one)? == identity(&other)? {
        return Ok(true);
    }
    let (mut left, mut right) = (vec![0; COMPARED], vec![0; COMPARED]);
    loop {
        let read = one.read(&mut left)?;
        if read == 0 {
            return Ok(other.read(&mut right)? == 0);
        }
        let right = right.get_mut(..read).unwrap_or_default();
        match other.read_exact(right) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            ended => ended?,
        }
        if left.get(..read) != Some(&*right) {
            return Ok(false);
        }
    }
}

fn remove(folder: &Path) -> Result<(), ImportError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ImportError::io("remove", folder, error)),
        _ => Ok(()),
    }
}

/// Copies a file, within the kernel where the file systems allow it.
fn copy(from: &Path, to: &Path) -> Result<WriteBack, ImportError> {
    let source = File::open(from).map_err(|source| ImportError::io("read", from, source))?;
    let failed = |source| ImportError::io("write", to, source);
    let target = File::create(to).map_err(failed)?;
    let mut write_back = WriteBack::of(&target, to)?;
    let (mut reader, mut writer) = (&source, &target);
    loop {
        match io::copy(&mut (&mut reader).take(AT_ONCE), &mut writer).map_err(failed)? {
            0 => break,
            copied => write_back.wrote(copied),
        }
    }
    let permissions = source.metadata().and_then(|data| target.set_permissions(data.permissions()));
    permissions.map_err(failed)?;
    write_back.complete();
    Ok(write_back)
}

/// Writes a file of some bytes.
fn put(to: &Path, bytes: &[u8]) -> Result<WriteBack, ImportError> {
    let failed = |source| ImportError::io("write", to, source);
    let mut file = File::create(to).map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    let mut write_back = WriteBack::of(&file, to)?;
    write_back.complete();
    Ok(write_back)
}
