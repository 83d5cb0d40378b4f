//! Source of a data set's images: a folder or a `.tar` file.

mod tar_index;

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use super::{RgbImage, decode};
use crate::error::DataError;
use tar_index::TarIndex;

/// Where the images of records are. Threads share it.
#[derive(Debug)]
pub struct ImageSource {
    kind: Kind,
    apply_exif: bool,
}

#[derive(Debug)]
enum Kind {
    Folder(PathBuf),
    Tar { path: PathBuf, file: File, index: TarIndex },
}

/// Bytes of a file that are read first for its header.
const HEADER_BYTES: u64 = 64 << 10;

impl ImageSource {
    /// Creates a source of the images in a folder, which need not exist.
    #[must_use]
    pub fn folder(path: impl Into<PathBuf>) -> Self {
        Self {
            kind: Kind::Folder(path.into()),
            apply_exif: false,
        }
    }

    /// Opens a folder or a `.tar` file. The names in a `.tar` file are read once, its images whenever they are asked for.
    ///
    /// # Errors
    /// Returns an error if there is neither, or if the file is no complete, uncompressed tar archive.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let read_error = |error| DataError::Read {
            path: path.to_owned(),
            error,
        };
        if path.metadata().map_err(read_error)?.is_dir() {
            return Ok(Self::folder(path));
        }
        let file = File::open(path).map_err(read_error)?;
        let index = TarIndex::read(&file).map_err(|reason| DataError::Archive {
            path: path.to_owned(),
            reason,
        })?;
        let path = path.to_owned();
        Ok(Self {
            kind: Kind::Tar { path, file, index },
            apply_exif: false,
        })
    }

    /// Returns the source with images turned upright by their EXIF orientation, or (PIL's default) as they are stored.
    #[must_use]
    pub fn with_exif(self, apply_exif: bool) -> Self {
        Self { apply_exif, ..self }
    }

    /// Returns whether the images are in a `.tar` file.
    #[must_use]
    pub fn is_archive(&self) -> bool {
        matches!(self.kind, Kind::Tar { .. })
    }

    /// Returns whether there is a file of this name.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        match &self.kind {
            Kind::Folder(folder) => folder.join(name).is_file(),
            Kind::Tar { index, .. } => index.find(name).is_some(),
        }
    }

    /// Returns the folder of the images if it does not exist.
    #[must_use]
    pub fn missing_folder(&self) -> Option<&Path> {
        match &self.kind {
            Kind::Folder(folder) => Some(folder.as_path()).filter(|folder| !folder.as_os_str().is_empty() && !folder.exists()),
            Kind::Tar { .. } => None,
        }
    }

    /// Returns the file on disk that holds a file: itself, or the `.tar` file.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        match &self.kind {
            Kind::Folder(folder) => folder.join(name),
            Kind::Tar { path, .. } => path.clone(),
        }
    }

    /// Returns the place of a file, for messages: a path, or `images.tar: name`.
    #[must_use]
    pub fn describe(&self, name: &str) -> String {
        match &self.kind {
            Kind::Folder(folder) => folder.join(name).display().to_string(),
            Kind::Tar { path, .. } => format!("{}: {name}", path.display()),
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// Returns an error if there is no such file, or if it cannot be read.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, DataError> {
        self.read_first(name, u64::MAX).map(|(bytes, _)| bytes)
    }

    /// Reads and decodes an image.
    ///
    /// # Errors
    /// Returns the errors of [`Self::read`] and [`RgbImage::decode`].
    pub fn image(&self, name: &str) -> Result<RgbImage, DataError> {
        let bytes = self.read(name)?;
        decode::decode(&bytes, self.apply_exif).map_err(|reason| self.broken(name, reason))
    }

    /// Returns width and height of an image, from its header. Only the first bytes of a file are read where they suffice.
    ///
    /// # Errors
    /// Returns the errors of [`Self::read`], and an error if the header is broken or the image is too large.
    pub fn size(&self, name: &str) -> Result<(usize, usize), DataError> {
        let (first, is_all) = self.read_first(name, HEADER_BYTES)?;
        // The orientation of a JPEG file is in its header; that of other files may be behind the first bytes.
        let may_lack_exif = self.apply_exif && !first.starts_with(&[0xff, 0xd8]);
        match decode::size(&first, self.apply_exif) {
            outcome if is_all || (outcome.is_ok() && !may_lack_exif) => outcome,
            _ => decode::size(&self.read(name)?, self.apply_exif),
        }
        .map_err(|reason| self.broken(name, reason))
    }

    /// Reads up to `limit` bytes, and returns whether they are the whole file.
    fn read_first(&self, name: &str, limit: u64) -> Result<(Vec<u8>, bool), DataError> {
        // Whether a disk fails may differ between ranks, so only a missing file is a broken sample.
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => self.broken(name, format!("cannot be read: {error}")),
            _ => DataError::Read {
                path: self.file(name),
                error,
            },
        };
        let mut bytes = Vec::new();
        match &self.kind {
            Kind::Folder(folder) => {
                let file = File::open(folder.join(name)).map_err(failed)?;
                let len = file.metadata().map_err(failed)?.len();
                bytes.reserve_exact(usize::try_from(len.min(limit)).unwrap_or(0).min(MAX_RESERVED));
                file.take(limit).read_to_end(&mut bytes).map_err(failed)?;
                let is_all = bytes.len() as u64 >= len;
                Ok((bytes, is_all))
            }
            Kind::Tar { path, file, index } => {
                let Some((offset, size)) = index.find(name) else {
                    return Err(self.broken(name, format!("there is no such file in {}", path.display())));
                };
                bytes.resize(usize::try_from(size.min(limit)).unwrap_or(usize::MAX), 0);
                file.read_exact_at(&mut bytes, offset).map_err(failed)?;
                Ok((bytes, size <= limit))
            }
        }
    }

    fn broken(&self, name: &str, reason: String) -> DataError {
        DataError::Image {
            name: self.describe(name),
            reason,
        }
    }
}

/// Maximum memory that is reserved because the file system names a size.
const MAX_RESERVED: usize = 1 << 30;
