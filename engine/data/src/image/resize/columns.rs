//! The vertical pass: runs along rows, 16 bytes of a row at a time.

use std::ops::Range;

use wide::{i16x8, u8x16};

use super::{
    super::RgbImage,
    plane::{Plane, VECTOR},
    taps::{Sum, Taps},
};

/// Resizes columns. `plane` has the rows `covered` of the input; all other rows have the colour `background`, which
/// `output` is filled with.
pub(super) fn resize(plane: &Plane, covered: &Range<usize>, background: [u8; 3], taps: &Taps, output: &mut RgbImage) {
    let len = 3 * output.width;
    let empty = background.repeat(len.next_multiple_of(VECTOR).div_ceil(3));
    let empty: &[[u8; VECTOR]] = empty.as_chunks().0;
    let input = taps.input();
    // The second row of the last pair may be behind the end; its weight is 0.
    let row = |y: usize| {
        let y = (input.start + y).min(input.end - 1);
        if covered.contains(&y) {
            plane.row(y - covered.start)
        } else {
            empty
        }
    };
    let mut pairs = Vec::new();
    for (to, (pair, weights)) in output.data.chunks_exact_mut(len.max(1)).zip(taps.iter()) {
        let first = input.start + 2 * pair;
        if first >= covered.end || first + 2 * weights.len() <= covered.start {
            continue; // only background
        }
        pairs.clear();
        pairs.extend(
            (pair..)
                .zip(weights)
                .map(|(pair, &weights)| (row(2 * pair), row(2 * pair + 1), weights)),
        );
        for (block, to) in to.chunks_mut(VECTOR).enumerate() {
            let mut sums = [Sum::ZERO; 4];
            for &(first, second, weights) in &pairs {
                let (first, second) = (u8x16::new(first[block]), u8x16::new(second[block]));
                let (left, right) = (u8x16::unpack_low(first, second), u8x16::unpack_high(first, second));
                sums[0].add(i16x8::from_u8x16_low(left), weights);
                sums[1].add(i16x8::from_u8x16_high(left), weights);
                sums[2].add(i16x8::from_u8x16_low(right), weights);
                sums[3].add(i16x8::from_u8x16_high(right), weights);
            }
            let bytes = Sum::bytes(sums);
            match <&mut [u8; VECTOR]>::try_from(&mut *to) {
                Ok(to) => *to = bytes,
                Err(_) => to.copy_from_slice(&bytes[..to.len()]),
            }
        }
    }
}
