//! Local files to copy, and the hashes of their contents.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use crate::error::ExecutorError;

/// A local file of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SourceFile {
    /// The file.
    pub(super) from: PathBuf,
    /// Its path within the tree; empty if the tree is this file.
    pub(super) relative: PathBuf,
    /// Its length in bytes.
    pub(super) len: u64,
    /// Its permissions.
    pub(super) mode: u32,
}

impl SourceFile {
    /// Returns the place of the file in a copy of the tree at `to`.
    pub(super) fn place(&self, to: &Path) -> PathBuf {
        match self.relative.as_os_str().is_empty() {
            true => to.to_owned(),
            false => to.join(&self.relative),
        }
    }
}

/// Returns the files of a folder and its subfolders in order of their names, or the file `from` alone. Symbolic links are
/// followed, since their targets may be outside of the tree.
pub(super) fn tree(from: &Path) -> Result<Vec<SourceFile>, ExecutorError> {
    let mut found = Vec::new();
    visit(from, Path::new(""), 0, &mut found)?;
    found.sort_by(|a, b| a.relative.cmp(&b.relative));
    Ok(found)
}

/// Maximum number of nested folders: links may form a cycle.
const MAX_DEPTH: usize = 64;

fn visit(path: &Path, relative: &Path, depth: usize, found: &mut Vec<SourceFile>) -> Result<(), ExecutorError> {
    let failed = |source| ExecutorError::File {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let metadata = fs::metadata(path).map_err(failed)?;
    if metadata.is_file() {
        found.push(SourceFile {
            from: path.to_owned(),
            relative: relative.to_owned(),
            len: metadata.len(),
            mode: metadata.permissions().mode() & 0o777,
        });
        return Ok(());
    }
    if depth > MAX_DEPTH {
        return Err(failed(io::Error::other(
            "its folders are nested too deeply; a symbolic link may lead back to it",
        )));
    }
    for entry in fs::read_dir(path).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        visit(&path.join(&name), &relative.join(&name), depth + 1, found)?;
    }
    Ok(())
}

/// Returns the SHA-256 hash of a file, as `sha256sum` prints it.
pub(crate) fn hash_file(path: &Path) -> Result<String, ExecutorError> {
    let mut hash = Sha256::new();
    fs::File::open(path)
        .and_then(|mut file| io::copy(&mut file, &mut hash))
        .map_err(|source| ExecutorError::File {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
    Ok(hex(&hash.finalize()))
}

/// Returns the SHA-256 hash of `bytes`.
pub(super) fn hash_bytes(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
