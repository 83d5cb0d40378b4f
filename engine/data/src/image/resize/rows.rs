//! The horizontal pass: four rows at a time, one in each lane.

use bytemuck::cast;
use wide::{i16x8, i32x4};

use super::{
    plane::Plane,
    taps::{Sum, Taps},
};

/// Rows of a group.
const ROWS: usize = 4;

/// Bytes of two neighbouring pixels.
const PAIR: usize = 6;

/// Two neighbouring pixels of four rows: for each channel, both samples of row 0, both of row 1 and so on.
type Pairs = [i16x8; 3];

/// Resizes `height` rows of `width` pixels, which `source` writes: the input pixels that `taps` need.
pub(super) fn resize(height: usize, width: usize, source: impl Fn(usize, &mut [u8]), taps: &Taps) -> Plane {
    let mut plane = Plane::new(taps.iter().count(), height, ROWS);
    let len = (3 * width).next_multiple_of(PAIR);
    // An odd number of pixels is filled up with a black one; its weight is 0.
    let mut rows = [const { Vec::new() }; ROWS];
    rows.iter_mut().for_each(|row: &mut Vec<u8>| row.resize(len, 0));
    let mut pairs: Vec<Pairs> = vec![[i16x8::ZERO; 3]; len / PAIR];
    let (groups, stride) = plane.groups_mut(ROWS);
    for (group, to) in groups.enumerate() {
        for (y, row) in (group * ROWS..height).zip(&mut rows) {
            source(y, &mut row[..3 * width]);
        }
        interleave(&rows, &mut pairs);
        for (x, (first, weights)) in taps.iter().enumerate() {
            let mut sums = [Sum::ZERO; 3];
            for (&[red, green, blue], &weights) in pairs[first..].iter().zip(weights) {
                sums[0].add(red, weights);
                sums[1].add(green, weights);
                sums[2].add(blue, weights);
            }
            // The last byte of a pixel is overwritten by the next pixel, or is behind the last one.
            for (row, pixel) in Sum::pixels(sums).into_iter().enumerate() {
                to[row * stride + 3 * x..][..4].copy_from_slice(&pixel);
            }
        }
    }
    plane
}

/// Brings the samples of four rows side by side.
fn interleave(rows: &[Vec<u8>; ROWS], pairs: &mut [Pairs]) {
    let [a, b, c, d] = rows.each_ref().map(|row| row.as_chunks::<PAIR>().0);
    for (to, ((a, b), (c, d))) in pairs.iter_mut().zip(a.iter().zip(b).zip(c.iter().zip(d))) {
        *to = [samples::<0>(a, b, c, d), samples::<1>(a, b, c, d), samples::<2>(a, b, c, d)];
    }
}

/// Returns the two samples of a channel, for each of four rows.
#[inline(always)]
fn samples<const CHANNEL: usize>(a: &[u8; PAIR], b: &[u8; PAIR], c: &[u8; PAIR], d: &[u8; PAIR]) -> i16x8 {
    // Of four bytes, the first and the last are the two samples.
    let word = |pair: &[u8; PAIR]| i32::from_le_bytes([pair[CHANNEL], pair[CHANNEL + 1], pair[CHANNEL + 2], pair[CHANNEL + 3]]);
    let words = i32x4::new([word(a), word(b), word(c), word(d)]);
    cast((words & i32x4::splat(0xff)) | ((words >> 8) & i32x4::splat(0xff_0000)))
}
