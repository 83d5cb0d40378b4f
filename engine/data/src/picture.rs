//! Pictures: from the bytes of a file to what the vision tower takes.
//!
//! The reference is PIL with Hugging Face's PIL image processors: same pixels, same rounding.

mod decode;
mod jpeg;
mod preprocessor;
mod process;
mod resize;

pub use process::{ImageProcessor, ProcessMode, Size};

use std::path::Path;

use crate::error::DataError;

/// An 8-bit RGB picture. EXIF orientation is never applied, as in NeVA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rgb {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Red, green, blue, row by row. Shape `[height, width, 3]`.
    pub data: Vec<u8>,
}

impl Rgb {
    /// Reads and decodes a file. Its contents tell the format, not its name.
    ///
    /// # Errors
    /// When the file cannot be read, or is not a whole JPEG, PNG, GIF, WebP or BMP picture.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let bytes = std::fs::read(path).map_err(|error| DataError::Read {
            path: path.to_owned(),
            error,
        })?;
        Self::decode(&bytes, &path.display().to_string())
    }

    /// Decodes a picture as PIL's `Image.open(..).convert("RGB")` does. `name` is for messages.
    ///
    /// # Errors
    /// When the bytes are not a whole picture of a known format, or it is absurdly large.
    pub fn decode(bytes: &[u8], name: &str) -> Result<Self, DataError> {
        decode::decode(bytes).map_err(|reason| DataError::Picture {
            name: name.to_owned(),
            reason,
        })
    }

    /// A picture of one colour.
    #[must_use]
    pub fn filled(width: usize, height: usize, colour: [u8; 3]) -> Self {
        Self {
            width,
            height,
            data: colour.repeat(width * height),
        }
    }

    /// The picture scaled to exactly `width x height`, bit-equal to PIL's bicubic `Image.resize`.
    #[must_use]
    pub fn resized(&self, width: usize, height: usize) -> Self {
        resize::bicubic(self, width, height)
    }

    /// Copies `source` so that its upper left corner lies at `(left, top)`; what lies outside is cut.
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

/// Where `len` pixels pasted at `offset` meet `0..within`.
fn overlap(offset: isize, len: usize, within: usize) -> std::ops::Range<usize> {
    let start = usize::try_from(offset).unwrap_or(0).min(within);
    let end = len.saturating_add_signed(offset).min(within);
    start..end.max(start)
}
