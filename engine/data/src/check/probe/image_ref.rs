//! Images that records name.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use crate::{error::DataError, image::RgbImage};

/// An image that a record names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImageRef {
    pub(super) path: PathBuf,
}

impl ImageRef {
    /// Returns the file on disk that holds the image.
    pub(crate) fn file(&self) -> &Path {
        &self.path
    }

    /// Returns the path, for messages.
    pub(crate) fn describe(&self) -> String {
        self.path.display().to_string()
    }

    /// Returns bytes that tell it from every other image.
    pub(crate) fn key(&self) -> &[u8] {
        self.path.as_os_str().as_encoded_bytes()
    }

    /// Opens its bytes and returns their number.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub(crate) fn open(&self) -> io::Result<(File, u64)> {
        let file = File::open(&self.path)?;
        let len = file.metadata()?.len();
        Ok((file, len))
    }

    /// Decodes it.
    ///
    /// # Errors
    /// Returns the reason for which the training cannot decode it.
    pub(crate) fn decode(&self) -> Result<RgbImage, String> {
        RgbImage::open(&self.path).map_err(|error| match error {
            DataError::Image { reason, .. } => format!("{}: {reason}", self.describe()),
            error => error.to_string(),
        })
    }
}
