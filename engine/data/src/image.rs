//! Image decoding and processing: from the bytes of a file to the input of the vision encoder.
//!
//! The reference is PIL with Hugging Face's slow (PIL) image processors: same pixels, same rounding.

mod decode;
mod jpeg;
mod limits;
mod model_processor;
mod preprocessor;
mod process;
mod resize;

pub use model_processor::{ModelProcessor, ProcessorOrigin};
pub use process::{ImageProcessor, ProcessMode, Size};

use std::path::Path;

use crate::error::DataError;

/// An 8-bit RGB image. EXIF orientation is never applied, as in NeVA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbImage {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Red, green, blue, row by row. Shape `[height, width, 3]`.
    pub data: Vec<u8>,
}

impl RgbImage {
    /// Reads and decodes a file. The format is detected from the contents, not from the file name.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read or is not a complete JPEG, PNG, GIF, WebP or BMP image.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let bytes = std::fs::read(path).map_err(|error| DataError::Read {
            path: path.to_owned(),
            error,
        })?;
        Self::decode(&bytes, &path.display().to_string())
    }

    /// Decodes an image as PIL's `Image.open(..).convert("RGB")` does. `name` is used in messages.
    ///
    /// # Errors
    /// Returns an error if the bytes are not a complete image of a known format, or if the image is too large.
    pub fn decode(bytes: &[u8], name: &str) -> Result<Self, DataError> {
        decode::decode(bytes).map_err(|reason| DataError::Image {
            name: name.to_owned(),
            reason,
        })
    }

    /// Creates an image of one colour.
    #[must_use]
    pub fn filled(width: usize, height: usize, colour: [u8; 3]) -> Self {
        Self {
            width,
            height,
            data: colour.repeat(width * height),
        }
    }

    /// Returns the image resized to exactly `width x height`, bit for bit as PIL's bicubic `Image.resize`.
    #[must_use]
    pub fn resized(&self, width: usize, height: usize) -> Self {
        resize::bicubic(self, width, height)
    }

    /// Copies `source` with its upper left corner to `(left, top)`. Pixels outside this image are dropped.
    fn paste(&mut self, source: &Self, left: isize, top: isize) {
        let columns = overlap(left, source.width, self.width);
        for y in overlap(top, source.height, self.height) {
            let to = (y * self.width + columns.start) * 3;
            let from = (y.wrapping_add_signed(-top) * source.width + columns.start.wrapping_add_signed(-left)) * 3;
            let len = columns.len() * 3;
            self.data[to..to + len].copy_from_slice(&source.data[from..from + len]);
        }
    }
}

/// Returns the intersection of `offset..offset + len` and `0..within`.
fn overlap(offset: isize, len: usize, within: usize) -> std::ops::Range<usize> {
    let start = usize::try_from(offset).unwrap_or(0).min(within);
    let end = len.saturating_add_signed(offset).min(within);
    start..end.max(start)
}
