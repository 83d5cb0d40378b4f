//! Files that a check writes: skip list, length index, and a list of image files, by which the cache recognises unchanged
//! ones.

use std::{
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use super::{error::CheckError, image_files::ImageFile};
use crate::{error::DataError, length_index::LengthIndex, skip_list::SkipList, staged_file::replace_file};

/// Names of the files in a folder of the cache.
pub(super) const SKIP_LIST: &str = "skip_list.jsonl";
pub(super) const LENGTH_INDEX: &str = "lengths.bin";
pub(super) const IMAGES: &str = "images.jsonl";

/// A folder of the cache that is being written.
pub(super) struct Staging {
    folder: TempDir,
    images: BufWriter<File>,
    /// Nothing failed so far.
    is_whole: bool,
}

impl Staging {
    /// Creates the folder in `cache`. A cache that cannot be written costs time, and no more: returns `None`.
    pub(super) fn new(cache: &Path) -> Option<Self> {
        fs::create_dir_all(cache).ok()?;
        let folder = tempfile::Builder::new().prefix("new-").tempdir_in(cache).ok()?;
        let images = File::create(folder.path().join(IMAGES)).map(BufWriter::new).ok()?;
        Some(Self {
            folder,
            images,
            is_whole: true,
        })
    }

    /// Adds an image file.
    pub(super) fn image(&mut self, image: &ImageFile) {
        let written = image.path.to_str().map(|path| {
            let line = serde_json::json!([path, image.state]);
            writeln!(self.images, "{line}")
        });
        self.is_whole &= matches!(written, Some(Ok(())));
    }

    /// Adds skip list and length index, and returns the folder if it is whole.
    pub(super) fn finish(mut self, skip_list: &SkipList, lengths: &LengthIndex) -> Option<TempDir> {
        let path = |name: &str| self.folder.path().join(name);
        skip_list.write(&path(SKIP_LIST)).ok()?;
        lengths.write(&path(LENGTH_INDEX)).ok()?;
        self.images.flush().ok()?;
        self.is_whole.then_some(self.folder)
    }
}

/// Creates the folder of a file, and writes the file with `write`. Returns its path.
///
/// # Errors
/// The file cannot be written.
pub(super) fn deliver(to: Option<&PathBuf>, write: impl FnOnce(&Path) -> Result<(), DataError>) -> Result<Option<PathBuf>, CheckError> {
    let Some(to) = to else { return Ok(None) };
    if let Some(parent) = to.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(|source| CheckError::Write {
            path: parent.to_owned(),
            source,
        })?;
    }
    write(to)?;
    Ok(Some(to.clone()))
}

/// Copies a file of the cache.
///
/// # Errors
/// The file cannot be written.
pub(super) fn copy(from: &Path, to: &Path) -> Result<(), DataError> {
    let copied = replace_file(to, |out| std::io::copy(&mut File::open(from)?, out).map(drop));
    copied.map_err(|error| DataError::Write {
        path: to.to_owned(),
        error,
    })
}
