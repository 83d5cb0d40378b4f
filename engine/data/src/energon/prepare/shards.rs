//! The shards in a folder.

use std::{fs, path::Path};

use super::{super::metadata, PrepareError};
use crate::error::DataError;

/// Maximum depth of folders that are searched.
const MAX_DEPTH: usize = 32;

/// Returns the names of all shards below a folder, sorted. Links to folders are not followed.
pub(super) fn find_shards(root: &Path) -> Result<Vec<String>, PrepareError> {
    let mut names = Vec::new();
    let mut folders = vec![(root.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        let read = |error| DataError::Read {
            path: folder.clone(),
            error,
        };
        for entry in fs::read_dir(&folder).map_err(read)? {
            let entry = entry.map_err(read)?;
            let (path, kind) = (entry.path(), entry.file_type().map_err(read)?);
            if kind.is_dir() {
                if depth < MAX_DEPTH && !entry.file_name().to_string_lossy().starts_with('.') {
                    folders.push((path, depth + 1));
                }
                continue;
            }
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            if name.ends_with(".tgz") || name.ends_with(".tar.gz") {
                let reason = "is compressed: samples within it cannot be read in any order; unpack it with `gunzip`, or move it away";
                return Err(metadata::invalid(&path, "", reason).into());
            }
            if name.ends_with(".tar") {
                names.push(name);
            }
        }
    }
    names.sort();
    match names.is_empty() {
        true => Err(PrepareError::NoShards(root.to_owned())),
        false => Ok(names),
    }
}
