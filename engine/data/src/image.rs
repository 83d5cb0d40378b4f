//! Image decoding and processing: from the bytes of a file to the input of the vision encoder.
//!
//! The reference is PIL with Hugging Face's slow (PIL) image processors: same pixels, same rounding.

mod buffers;
mod decode;
mod exif;
mod jpeg;
mod limits;
mod model_processor;
mod png;
mod pnm;
mod preprocessor;
mod process;
mod resize;
mod source;
mod tiff;
mod tiles;

pub use model_processor::{ModelProcessor, ProcessorOrigin};
pub use process::{ImageProcessor, ProcessMode, Size};
pub use resize::Filter;
pub use source::ImageSource;
pub use tiles::{Tiling, repeat_placeholders};

use std::path::Path;

use crate::error::DataError;
use resize::{Canvas, Window, resize};

/// An 8-bit RGB image. Its memory is used again by the same thread.
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
    /// Returns an error if the file cannot be read or is not a complete JPEG, PNG, GIF, WebP, BMP, TIFF or PPM image.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        Self::decode(&Self::read(path)?, &path.display().to_string())
    }

    /// Reads and decodes a file, and turns the image upright: see [`Self::decode_upright`].
    ///
    /// # Errors
    /// Returns the errors of [`Self::open`].
    pub fn open_upright(path: &Path) -> Result<Self, DataError> {
        Self::decode_upright(&Self::read(path)?, &path.display().to_string())
    }

    fn read(path: &Path) -> Result<Vec<u8>, DataError> {
        std::fs::read(path).map_err(|error| DataError::Read {
            path: path.to_owned(),
            error,
        })
    }

    /// Decodes an image as PIL's `Image.open(..).convert("RGB")` does, bit for bit. `name` is used in messages.
    ///
    /// The EXIF orientation is not applied, as in PIL and NeVA, except for TIFF, as in PIL.
    ///
    /// # Errors
    /// Returns an error if the bytes are not a complete image of a known format, or if the image is too large.
    pub fn decode(bytes: &[u8], name: &str) -> Result<Self, DataError> {
        decode::decode(bytes, false).map_err(|reason| Self::broken(name, reason))
    }

    /// Decodes an image and turns it upright by its EXIF orientation, as PIL's `ImageOps.exif_transpose` does.
    ///
    /// # Errors
    /// Returns the errors of [`Self::decode`].
    pub fn decode_upright(bytes: &[u8], name: &str) -> Result<Self, DataError> {
        decode::decode(bytes, true).map_err(|reason| Self::broken(name, reason))
    }

    fn broken(name: &str, reason: String) -> DataError {
        DataError::Image {
            name: name.to_owned(),
            reason,
        }
    }

    /// Creates an image of one colour.
    #[must_use]
    pub fn filled(width: usize, height: usize, colour: [u8; 3]) -> Self {
        let mut data = buffers::take(width * height * 3);
        data.as_chunks_mut().0.fill(colour);
        Self { width, height, data }
    }

    /// Returns the image resized to exactly `width x height`, bit for bit as PIL's `Image.resize` does it.
    #[must_use]
    pub fn resized(&self, width: usize, height: usize, filter: Filter) -> Self {
        resize(&Canvas::of(self), width, height, filter, &Window::whole(width, height))
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

impl Drop for RgbImage {
    fn drop(&mut self) {
        buffers::give(std::mem::take(&mut self.data));
    }
}

/// Returns the intersection of `offset..offset + len` and `0..within`.
fn overlap(offset: isize, len: usize, within: usize) -> std::ops::Range<usize> {
    let start = usize::try_from(offset).unwrap_or(0).min(within);
    let end = len.saturating_add_signed(offset).min(within);
    start..end.max(start)
}
