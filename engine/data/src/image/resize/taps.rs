//! The taps of a pass: which samples of the input an output sample is made of, with their weights.

use std::ops::Range;

use bytemuck::cast;
use wide::{i16x8, i32x4, u8x16};

use super::filter::Filter;

/// Fraction bits of a weight: an 8-bit sample times a weight, with 2 bits for overshoot, fits into an `i32`.
const PRECISION_BITS: u32 = 32 - 8 - 2;

/// Bits of the lower part of a weight. Both parts fit into an `i16`, so that one instruction (`pmaddwd`, part of every
/// x86-64) multiplies eight samples and adds neighbours.
const LOW_BITS: u32 = 15;

/// Taps of a range of outputs.
pub(super) struct Taps {
    input: Range<usize>,
    outputs: Vec<Output>,
    weights: Vec<Weights>,
}

struct Output {
    /// First input pair: inputs `2 * pair` and `2 * pair + 1`, counted from the first input that is needed.
    pair: usize,
    /// Its weights.
    weights: Range<usize>,
}

/// Weights of two neighbouring inputs, alternating, as upper and lower parts.
#[derive(Clone, Copy)]
pub(super) struct Weights {
    high: i16x8,
    low: i16x8,
}

impl Weights {
    fn new(first: i32, second: i32) -> Self {
        let (high, low) = (
            |weight: i32| (weight >> LOW_BITS) as i16,
            |weight: i32| (weight & ((1 << LOW_BITS) - 1)) as i16,
        );
        let alternating = |[a, b]: [i16; 2]| i16x8::new([a, b, a, b, a, b, a, b]);
        Self {
            high: alternating([first, second].map(high)),
            low: alternating([first, second].map(low)),
        }
    }
}

impl Taps {
    /// Computes the taps of the outputs `window` when `input` samples become `output`.
    pub(super) fn new(filter: Filter, input: usize, output: usize, window: &Range<usize>) -> Self {
        let scale = input as f64 / output as f64;
        let filter_scale = scale.max(1.0);
        let support = filter.support() * filter_scale;
        // The cast of a negative bound saturates to 0, as Pillow's clamp does.
        let span = |center: f64| (center - support + 0.5) as usize..((center + support + 0.5) as usize).min(input);
        let center = |out: usize| (out as f64 + 0.5) * scale;
        let needed = span(center(window.start)).start..span(center(window.end.saturating_sub(1))).end;

        let mut taps = Self {
            input: needed.clone(),
            outputs: Vec::with_capacity(window.len()),
            weights: Vec::with_capacity(window.len() * (support as usize + 2)),
        };
        let (mut exact, mut fixed) = (Vec::new(), Vec::new());
        for out in window.clone() {
            let center = center(out);
            let span = span(center);
            exact.clear();
            exact.extend(
                span.clone()
                    .map(|x| filter.weight((x as f64 - center + 0.5) * (1.0 / filter_scale))),
            );
            let total: f64 = exact.iter().sum();
            let start = span.start - needed.start;
            // A pair starts at an even input.
            fixed.clear();
            fixed.extend((start % 2 == 1).then_some(0));
            fixed.extend(exact.iter().map(|&weight| {
                let weight = if total == 0.0 { weight } else { weight / total };
                (weight * f64::from(1 << PRECISION_BITS) + 0.5_f64.copysign(weight)) as i32
            }));
            let first = taps.weights.len();
            taps.weights
                .extend(fixed.chunks(2).map(|pair| Weights::new(pair[0], pair.get(1).copied().unwrap_or(0))));
            taps.outputs.push(Output {
                pair: start / 2,
                weights: first..taps.weights.len(),
            });
        }
        taps
    }

    /// Returns the range of inputs that the outputs need.
    pub(super) fn input(&self) -> Range<usize> {
        self.input.clone()
    }

    /// Returns for each output the first input pair and the weights of it and the following ones.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &[Weights])> {
        self.outputs
            .iter()
            .map(|output| (output.pair, &self.weights[output.weights.clone()]))
    }
}

/// A weighted sum of samples, in four lanes.
#[derive(Clone, Copy)]
pub(super) struct Sum {
    high: i32x4,
    low: i32x4,
}

impl Sum {
    pub(super) const ZERO: Self = Self {
        high: i32x4::ZERO,
        low: i32x4::ZERO,
    };

    /// Adds pairs of samples: lane `i` gets `samples[2 i] * first + samples[2 i + 1] * second`.
    #[inline(always)]
    pub(super) fn add(&mut self, samples: i16x8, weights: Weights) {
        self.high += samples.dot(weights.high);
        self.low += samples.dot(weights.low);
    }

    /// Rounds four sums to bytes: four of each, in order.
    #[inline(always)]
    pub(super) fn bytes([a, b, c, d]: [Self; 4]) -> [u8; 16] {
        let left = i16x8::from_i32x8_saturate(cast([a.rounded(), b.rounded()]));
        let right = i16x8::from_i32x8_saturate(cast([c.rounded(), d.rounded()]));
        u8x16::narrow_i16x8(left, right).to_array()
    }

    /// Rounds sums of red, green and blue to pixels of four bytes, the last of which is arbitrary.
    #[inline(always)]
    pub(super) fn pixels([red, green, blue]: [Self; 3]) -> [[u8; 4]; 4] {
        let [red, green, blue] = [red, green, blue].map(|sum| {
            let half = i16x8::from_i32x8_saturate(cast([sum.rounded(); 2]));
            u8x16::narrow_i16x8(half, half)
        });
        let (outer, inner) = (u8x16::unpack_low(red, blue), u8x16::unpack_low(green, blue));
        cast(u8x16::unpack_low(outer, inner))
    }

    /// Returns the integer part. The sums of the parts may wrap around, but the whole fits: additions are modulo 2^32.
    #[inline(always)]
    fn rounded(self) -> i32x4 {
        let whole = (self.high << LOW_BITS as i32) + self.low + i32x4::splat(1 << (PRECISION_BITS - 1));
        whole >> PRECISION_BITS as i32
    }
}
