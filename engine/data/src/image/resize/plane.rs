//! A buffer of RGB rows, each padded to whole vectors.

use super::super::{RgbImage, buffers};

/// Bytes of a vector.
pub(super) const VECTOR: usize = 16;

/// RGB rows whose length in memory is a multiple of [`VECTOR`], with at least one byte behind the pixels.
pub(super) struct Plane {
    width: usize,
    height: usize,
    stride: usize,
    data: Vec<u8>,
}

impl Plane {
    /// Creates rows of arbitrary contents; `height` is rounded up to a multiple of `rows` in memory.
    pub(super) fn new(width: usize, height: usize, rows: usize) -> Self {
        let stride = (3 * width + 1).next_multiple_of(VECTOR);
        Self {
            width,
            height,
            stride,
            data: buffers::take(stride * height.next_multiple_of(rows)),
        }
    }

    /// Creates a plane of `height` rows, which `source` writes.
    pub(super) fn copied(height: usize, width: usize, source: impl Fn(usize, &mut [u8])) -> Self {
        let mut plane = Self::new(width, height, 1);
        for (y, row) in plane.data.chunks_exact_mut(plane.stride.max(1)).enumerate() {
            source(y, &mut row[..3 * width]);
        }
        plane
    }

    /// Returns groups of `rows` rows: the whole memory of each group, and the length of a row in it.
    pub(super) fn groups_mut(&mut self, rows: usize) -> (impl Iterator<Item = &mut [u8]>, usize) {
        (self.data.chunks_exact_mut((self.stride * rows).max(1)), self.stride)
    }

    /// Returns the vectors of the row `y`.
    pub(super) fn row(&self, y: usize) -> &[[u8; VECTOR]] {
        self.data[y * self.stride..(y + 1) * self.stride].as_chunks().0
    }

    /// Copies the rows to those of an image of the same width, from `top` on.
    pub(super) fn copy_to(&self, image: &mut RgbImage, top: usize) {
        let len = 3 * self.width;
        let rows = image.data.chunks_exact_mut(len.max(1)).skip(top).take(self.height);
        for (y, row) in rows.enumerate() {
            row.copy_from_slice(&self.data[y * self.stride..][..len]);
        }
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        buffers::give(std::mem::take(&mut self.data));
    }
}
