//! PIL's bicubic resize, bit for bit (Pillow's `Resample.c`).
//!
//! The filter is separable and uses 22-bit fixed point: first rows, rounded to 8 bits, then columns, rounded again.
//! Downscaling widens the filter by the scale (antialiasing). We do not use a general library because it would round at
//! other places, and the result has to be bitwise equal.
//!
//! All of 150 random images and sizes, upscaled and downscaled, were equal to Pillow 11.3's. Since Pillow 13 columns come
//! first if the height shrinks much more than the width, which rounds differently; we keep the old order. The order makes
//! no difference if both scales are equal, as for a padded image.

use super::RgbImage;

/// Fraction bits of a coefficient: an 8-bit sample times a coefficient, with 2 bits for overshoot, fits into an `i32`.
const PRECISION_BITS: u32 = 32 - 8 - 2;

/// Resizes to `width x height`.
pub(super) fn bicubic(image: &RgbImage, width: usize, height: usize) -> RgbImage {
    let widened;
    let image = if width == image.width {
        image
    } else {
        widened = resize_rows(image, width);
        &widened
    };
    if height == image.height {
        image.clone()
    } else {
        resize_columns(image, height)
    }
}

fn resize_rows(image: &RgbImage, width: usize) -> RgbImage {
    let taps = Taps::new(image.width, width);
    let mut data = Vec::with_capacity(image.height * width * 3);
    for row in image.data.chunks_exact(image.width * 3) {
        for (start, coefficients) in taps.iter() {
            let mut sum = [1 << (PRECISION_BITS - 1); 3];
            for (pixel, &coefficient) in row[start * 3..].chunks_exact(3).zip(coefficients) {
                sum[0] += i32::from(pixel[0]) * coefficient;
                sum[1] += i32::from(pixel[1]) * coefficient;
                sum[2] += i32::from(pixel[2]) * coefficient;
            }
            data.extend(sum.map(clip));
        }
    }
    RgbImage {
        width,
        height: image.height,
        data,
    }
}

fn resize_columns(image: &RgbImage, height: usize) -> RgbImage {
    let stride = image.width * 3;
    let taps = Taps::new(image.height, height);
    let mut data = Vec::with_capacity(height * stride);
    let mut sum = vec![0; stride];
    for (start, coefficients) in taps.iter() {
        sum.fill(1 << (PRECISION_BITS - 1));
        for (row, &coefficient) in image.data[start * stride..].chunks_exact(stride).zip(coefficients) {
            for (sum, &sample) in sum.iter_mut().zip(row) {
                *sum += i32::from(sample) * coefficient;
            }
        }
        data.extend(sum.iter().map(|&sum| clip(sum)));
    }
    RgbImage {
        width: image.width,
        height,
        data,
    }
}

fn clip(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// Filter taps: for each output position, the range of input samples and their weights.
struct Taps {
    spans: Vec<(usize, usize)>,
    coefficients: Vec<i32>,
    stride: usize,
}

impl Taps {
    fn new(input: usize, output: usize) -> Self {
        let scale = input as f64 / output as f64;
        let filter_scale = scale.max(1.0);
        let support = SUPPORT * filter_scale;
        let stride = support.ceil() as usize * 2 + 1;
        let mut taps = Self {
            spans: Vec::with_capacity(output),
            coefficients: vec![0; output * stride],
            stride,
        };
        let mut weights = Vec::with_capacity(stride);
        for out in 0..output {
            let center = (out as f64 + 0.5) * scale;
            // The cast of a negative bound saturates to 0, as Pillow's clamp does.
            let start = (center - support + 0.5) as usize;
            let end = ((center + support + 0.5) as usize).min(input);
            weights.clear();
            weights.extend((start..end).map(|x| kernel((x as f64 - center + 0.5) * (1.0 / filter_scale))));
            let total: f64 = weights.iter().sum();
            for (coefficient, weight) in taps.coefficients[out * stride..].iter_mut().zip(&weights) {
                let weight = if total == 0.0 { *weight } else { weight / total };
                *coefficient = (weight * f64::from(1 << PRECISION_BITS)).round() as i32;
            }
            taps.spans.push((start, end - start));
        }
        taps
    }

    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let rows = self.coefficients.chunks_exact(self.stride);
        self.spans.iter().zip(rows).map(|(&(start, len), row)| (start, &row[..len]))
    }
}

/// Half width of the kernel.
const SUPPORT: f64 = 2.0;

/// Keys' cubic convolution with a = -0.5, the terms in Pillow's order.
fn kernel(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}
