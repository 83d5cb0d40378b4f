//! Images that records name.

use std::{
    fs::File,
    io::{self, Cursor},
    path::PathBuf,
    sync::Arc,
};

use super::super::header::{Glance, glance};
use crate::{
    error::DataError,
    image::{ImageSource, RgbImage},
};

/// An image that a record names.
#[derive(Clone, Debug)]
pub(crate) struct ImageRef {
    source: Arc<ImageSource>,
    name: String,
    /// Its place, for messages.
    place: String,
}

impl ImageRef {
    pub(super) fn new(source: &Arc<ImageSource>, name: String) -> Self {
        Self {
            place: source.describe(&name),
            source: Arc::clone(source),
            name,
        }
    }

    /// Returns the file on disk that holds the image.
    pub(crate) fn file(&self) -> PathBuf {
        self.source.file(&self.name)
    }

    /// Returns the place, for messages.
    pub(crate) fn describe(&self) -> &str {
        &self.place
    }

    /// Returns bytes that tell it from every other image.
    pub(crate) fn key(&self) -> &[u8] {
        self.place.as_bytes()
    }

    /// Reads its header.
    ///
    /// # Errors
    /// There is no such file, or it cannot be read.
    pub(in crate::check) fn glance(&self) -> io::Result<Glance> {
        if !self.source.is_archive() {
            let file = File::open(self.file())?;
            let len = file.metadata()?.len();
            return glance(file, len);
        }
        if !self.source.contains(&self.name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let bytes = self.source.read(&self.name).map_err(|error| io::Error::other(error.to_string()))?;
        let len = bytes.len() as u64;
        glance(Cursor::new(bytes), len)
    }

    /// Returns width and height, as the training reads them.
    pub(crate) fn size(&self) -> Option<(usize, usize)> {
        self.source.size(&self.name).ok()
    }

    /// Decodes it.
    ///
    /// # Errors
    /// Returns the reason for which the training cannot decode it.
    pub(crate) fn decode(&self) -> Result<RgbImage, String> {
        self.source.image(&self.name).map_err(|error| match error {
            DataError::Image { reason, .. } => format!("{}: {reason}", self.describe()),
            error => error.to_string(),
        })
    }
}
