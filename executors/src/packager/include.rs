//! Files by pattern.

use std::path::{Path, PathBuf};

use neva_schemas::TextOrList;

use super::archive::Archive;
use crate::packager_error::PackagerError;

/// Adds the files that fit `patterns`, relative to `base`. A folder stands for all files in it. Their names in the archive are
/// relative to `folders`: one for all patterns, or one for each; `base` if there is none.
pub(super) fn add(
    archive: &mut Archive,
    prefix: &Path,
    base: &Path,
    patterns: &TextOrList,
    folders: &TextOrList,
) -> Result<(), PackagerError> {
    for (index, pattern) in patterns.0.iter().enumerate() {
        let folder = folders.0.get(index).or(folders.0.first());
        let folder = folder.map_or_else(|| base.to_owned(), |folder| lexical(&base.join(folder)));
        let mut files = fitting(base, pattern)?;
        files.sort();
        files.dedup();
        for file in files {
            let name = file.strip_prefix(&folder).map_err(|_| PackagerError::Outside {
                path: file.clone(),
                folder: folder.clone(),
            })?;
            archive.add_local(&prefix.join(name), &file)?;
        }
    }
    Ok(())
}

fn fitting(base: &Path, pattern: &str) -> Result<Vec<PathBuf>, PackagerError> {
    let malformed = |reason: String| PackagerError::Pattern {
        pattern: pattern.to_owned(),
        reason,
    };
    // Only the pattern is one, and not the folder's name.
    let full = match Path::new(pattern).is_absolute() {
        true => PathBuf::from(pattern),
        false => Path::new(&glob::Pattern::escape(&base.to_string_lossy())).join(pattern),
    };
    let full = full.to_str().ok_or_else(|| malformed("it is not UTF-8".to_owned()))?;
    let mut files = Vec::new();
    for found in glob::glob(full).map_err(|error| malformed(error.msg.to_owned()))? {
        let found = found.map_err(|error| PackagerError::File {
            action: "read",
            path: error.path().to_owned(),
            source: error.into(),
        })?;
        visit(&lexical(&found), &mut files)?;
    }
    if files.is_empty() {
        return Err(PackagerError::NoMatch {
            pattern: pattern.to_owned(),
            folder: base.to_owned(),
        });
    }
    Ok(files)
}

/// Collects a file, or all files of a folder. Links are not followed.
fn visit(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), PackagerError> {
    let failed = |source| PackagerError::File {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let metadata = std::fs::symlink_metadata(path).map_err(failed)?;
    if !metadata.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in std::fs::read_dir(path).map_err(failed)? {
        visit(&entry.map_err(failed)?.path(), files)?;
    }
    Ok(())
}

/// Removes `.` and resolves `..` by name.
fn lexical(path: &Path) -> PathBuf {
    use std::path::Component;
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                clean.pop();
            }
            part => clean.push(part),
        }
    }
    clean
}
