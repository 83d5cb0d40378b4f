//! PIL's resize, bit for bit (Pillow's `Resample.c`), with vector instructions.
//!
//! The filter is separable and uses 22-bit fixed point: one pass, rounded to 8 bits, then the other, rounded again.
//! Downscaling widens the filter by the scale (antialiasing). General libraries round at other places, by up to 9 of 255.
//!
//! Only the pixels of a window of the output are computed, and a background of one colour costs nothing: a pixel whose
//! taps are all background is background, since the weights of a pixel sum up to one within the rounding.
//!
//! Pillow 13 resizes columns first where the height shrinks by more than twice what the width does; earlier versions
//! always resize rows first. The order changes the rounding, by one or two of 255. This is Pillow 13's order, found by
//! comparison: all of 585 random sizes whose result depends on the order agree.

mod canvas;
mod columns;
mod filter;
mod plane;
mod rows;
mod taps;

use std::ops::Range;

pub(super) use canvas::Canvas;
pub use filter::Filter;

use super::RgbImage;
use plane::Plane;
use taps::Taps;

/// A rectangle of the output, in pixels.
#[derive(Clone, Debug)]
pub(super) struct Window {
    pub(super) columns: Range<usize>,
    pub(super) rows: Range<usize>,
}

impl Window {
    /// Returns the whole output.
    pub(super) fn whole(width: usize, height: usize) -> Self {
        Self {
            columns: 0..width,
            rows: 0..height,
        }
    }
}

/// Resizes `canvas` to `width x height`, both positive, and returns the pixels of `window`.
pub(super) fn resize(canvas: &Canvas<'_>, width: usize, height: usize, filter: Filter, window: &Window) -> RgbImage {
    if width * height * canvas.width * canvas.height == 0 {
        return RgbImage::filled(window.columns.len(), window.rows.len(), canvas.background);
    }
    let horizontal = (width != canvas.width).then(|| Taps::new(filter, canvas.width, width, &window.columns));
    let vertical = (height != canvas.height).then(|| Taps::new(filter, canvas.height, height, &window.rows));
    let columns = horizontal.as_ref().map_or(window.columns.clone(), Taps::input);
    let rows = vertical.as_ref().map_or(window.rows.clone(), Taps::input);
    let image_rows = canvas.image_rows(&rows);
    let source = |row: usize, to: &mut [u8]| canvas.copy_row(image_rows.start + row, columns.clone(), to);
    let mut output = RgbImage::filled(window.columns.len(), window.rows.len(), canvas.background);

    let shrinks_most_in_height = height < canvas.height && canvas.height - height > 2 * canvas.width.saturating_sub(width);
    match (&horizontal, &vertical) {
        (Some(horizontal), Some(vertical)) if shrinks_most_in_height => {
            let middle = Plane::copied(image_rows.len(), columns.len(), source);
            let mut middle_output = RgbImage::filled(columns.len(), window.rows.len(), canvas.background);
            columns::resize(&middle, &image_rows, canvas.background, vertical, &mut middle_output);
            let stride = 3 * columns.len();
            let source = |row: usize, to: &mut [u8]| to.copy_from_slice(&middle_output.data[row * stride..][..stride]);
            let result = rows::resize(window.rows.len(), columns.len(), source, horizontal);
            result.copy_to(&mut output, 0);
        }
        _ => {
            let middle = match &horizontal {
                Some(taps) => rows::resize(image_rows.len(), columns.len(), source, taps),
                None => Plane::copied(image_rows.len(), columns.len(), source),
            };
            match &vertical {
                Some(taps) => columns::resize(&middle, &image_rows, canvas.background, taps, &mut output),
                None => middle.copy_to(&mut output, image_rows.start - window.rows.start),
            }
        }
    }
    output
}
