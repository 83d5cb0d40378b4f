//! An image on a larger background of one colour, which is never allocated.

use std::ops::Range;

use super::super::RgbImage;

/// An image on a background.
pub(in super::super) struct Canvas<'a> {
    pub(super) image: &'a RgbImage,
    /// Size of the whole, in pixels.
    pub(super) width: usize,
    pub(super) height: usize,
    /// Position of the image's upper left corner.
    left: usize,
    top: usize,
    pub(super) background: [u8; 3],
}

impl<'a> Canvas<'a> {
    /// Creates a canvas that is only the image.
    pub(in super::super) fn of(image: &'a RgbImage) -> Self {
        Self {
            image,
            width: image.width,
            height: image.height,
            left: 0,
            top: 0,
            background: [0; 3],
        }
    }

    /// Creates a square with the image in its center; with an odd border, the larger part is right or below.
    pub(in super::super) fn square(image: &'a RgbImage, background: [u8; 3]) -> Self {
        let edge = image.width.max(image.height);
        Self {
            image,
            width: edge,
            height: edge,
            left: (edge - image.width) / 2,
            top: (edge - image.height) / 2,
            background,
        }
    }

    /// Returns width and height.
    pub(in super::super) fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    /// Returns those of `rows` that the image covers; an empty range within `rows` if there are none.
    pub(super) fn image_rows(&self, rows: &Range<usize>) -> Range<usize> {
        let start = self.top.clamp(rows.start, rows.end);
        start..(self.top + self.image.height).clamp(start, rows.end)
    }

    /// Copies the pixels of `columns` in the row `row`, which the image covers.
    pub(super) fn copy_row(&self, row: usize, columns: Range<usize>, to: &mut [u8]) {
        let start = self.left.clamp(columns.start, columns.end);
        let end = (self.left + self.image.width).clamp(start, columns.end);
        let (before, rest) = to.split_at_mut(3 * (start - columns.start));
        let (within, after) = rest.split_at_mut(3 * (end - start));
        for pixel in before.as_chunks_mut().0.iter_mut().chain(after.as_chunks_mut().0) {
            *pixel = self.background;
        }
        if !within.is_empty() {
            let from = 3 * ((row - self.top) * self.image.width + start - self.left);
            within.copy_from_slice(&self.image.data[from..from + within.len()]);
        }
    }
}
