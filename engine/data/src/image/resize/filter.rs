//! The filters of PIL's `Image.resize`.

use std::f64::consts::PI;

/// A filter of PIL's `Image.Resampling`. Nearest, which is none, is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// `Resampling.LANCZOS`, 1.
    Lanczos,
    /// `Resampling.BILINEAR`, 2.
    Bilinear,
    /// `Resampling.BICUBIC`, 3.
    Bicubic,
    /// `Resampling.BOX`, 4.
    Box,
    /// `Resampling.HAMMING`, 5.
    Hamming,
}

impl Filter {
    const ALL: [Self; 5] = [Self::Lanczos, Self::Bilinear, Self::Bicubic, Self::Box, Self::Hamming];

    /// Returns the filter of a number of `Image.Resampling`.
    #[must_use]
    pub fn of_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|filter| filter.code() == code)
    }

    /// Returns the number in `Image.Resampling`, as `resample` in a `preprocessor_config.json`.
    #[must_use]
    pub fn code(self) -> u32 {
        match self {
            Self::Lanczos => 1,
            Self::Bilinear => 2,
            Self::Bicubic => 3,
            Self::Box => 4,
            Self::Hamming => 5,
        }
    }

    /// Returns half of the filter's width, in pixels of the output.
    pub(super) fn support(self) -> f64 {
        match self {
            Self::Lanczos => 3.0,
            Self::Bicubic => 2.0,
            Self::Bilinear | Self::Hamming => 1.0,
            Self::Box => 0.5,
        }
    }

    /// Returns the weight at the distance `x`. The terms are in Pillow's order, since the rounding depends on it.
    pub(super) fn weight(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        match self {
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Lanczos => 0.0,
            Self::Bilinear => (1.0 - x.abs()).max(0.0),
            Self::Bicubic => {
                let x = x.abs();
                if x < 1.0 {
                    ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
                } else if x < 2.0 {
                    (((x - 5.0) * x + 8.0) * x - 4.0) * A
                } else {
                    0.0
                }
            }
            Self::Box => f64::from(x > -0.5 && x <= 0.5),
            Self::Hamming => {
                let x = x.abs();
                if x == 0.0 {
                    1.0
                } else if x >= 1.0 {
                    0.0
                } else {
                    let x = x * PI;
                    // Pillow writes the two constants in single precision.
                    x.sin() / x * (f64::from(0.54_f32) + f64::from(0.46_f32) * x.cos())
                }
            }
        }
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    let x = x * PI;
    x.sin() / x
}
