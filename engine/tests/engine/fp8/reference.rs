//! FP8 arithmetic in plain Rust, written from the formulae of Transformer Engine's documentation and of the formats
//! (arXiv:2209.05433), without the engine.

/// A format: bits of the mantissa, exponent of the smallest normal number, largest value.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Grid {
    mantissa: i32,
    smallest: i32,
    pub(super) largest: f64,
}

pub(super) const E4M3: Grid = Grid {
    mantissa: 3,
    smallest: -6,
    largest: 448.0,
};

pub(super) const E5M2: Grid = Grid {
    mantissa: 2,
    smallest: -14,
    largest: 57344.0,
};

impl Grid {
    /// Rounds to the nearest value of the format, ties to even. Larger magnitudes saturate.
    pub(super) fn round(self, value: f64) -> f64 {
        if value.is_nan() || value == 0.0 {
            return value;
        }
        let value = value.clamp(-self.largest, self.largest);
        let exponent = (value.abs().log2().floor() as i32).max(self.smallest);
        let step = 2f64.powi(exponent - self.mantissa);
        (value / step).round_ties_even() * step
    }
}

/// A matrix, row by row.
#[derive(Clone)]
pub(super) struct Matrix {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) values: Vec<f64>,
}

impl Matrix {
    pub(super) fn transposed(&self) -> Self {
        let value = |index: usize| self.values[index % self.rows * self.columns + index / self.rows];
        Self {
            rows: self.columns,
            columns: self.rows,
            values: (0..self.values.len()).map(value).collect(),
        }
    }

    /// Returns the values after quantisation with one scale.
    pub(super) fn quantized(&self, scale: f64, grid: Grid) -> Self {
        // The scale, its product and its inverse are fp32, as in Transformer Engine.
        let inverse = f64::from(1.0 / scale as f32);
        let value = |value: &f64| grid.round(f64::from(*value as f32 * scale as f32)) * inverse;
        Self {
            values: self.values.iter().map(value).collect(),
            ..*self
        }
    }

    /// Returns the values after quantisation with the scale of the largest magnitude.
    pub(super) fn quantized_currently(&self, grid: Grid) -> Self {
        self.quantized(scale(self.amax(), grid), grid)
    }

    /// Returns the values after quantisation in tiles, whose scales are powers of 2.
    pub(super) fn quantized_in_tiles(&self, tile: [usize; 2], grid: Grid) -> Self {
        let mut result = self.clone();
        for row in (0..self.rows).step_by(tile[0]) {
            for column in (0..self.columns).step_by(tile[1]) {
                let places: Vec<_> = (row..(row + tile[0]).min(self.rows))
                    .flat_map(|r| (column..(column + tile[1]).min(self.columns)).map(move |c| r * self.columns + c))
                    .collect();
                let amax = places.iter().fold(0.0f64, |amax, place| amax.max(self.values[*place].abs()));
                let scale = 2f64.powf(scale(amax, grid).log2().floor());
                for place in places {
                    result.values[place] = grid.round(self.values[place] * scale) / scale;
                }
            }
        }
        result
    }

    pub(super) fn amax(&self) -> f64 {
        self.values.iter().fold(0.0, |amax, value| amax.max(value.abs()))
    }

    /// Returns `self other^T`.
    pub(super) fn times_transposed(&self, other: &Self) -> Self {
        let row = |matrix: &Self, row: usize| matrix.values[row * matrix.columns..(row + 1) * matrix.columns].to_vec();
        let mut values = Vec::new();
        for m in 0..self.rows {
            let a = row(self, m);
            for n in 0..other.rows {
                values.push(a.iter().zip(row(other, n)).map(|(a, b)| a * b).sum());
            }
        }
        Self {
            rows: self.rows,
            columns: other.rows,
            values,
        }
    }
}

/// Returns the scale that maps `amax` to the largest value of a format, rounded to fp32.
pub(super) fn scale(amax: f64, grid: Grid) -> f64 {
    if amax == 0.0 || !amax.is_finite() {
        return 1.0;
    }
    f64::from(grid.largest as f32 / amax as f32).min(f64::from(f32::MAX))
}

/// Delayed scaling of one tensor.
pub(super) struct Delayed {
    /// Scale of the next step.
    pub(super) scale: f64,
    history: Vec<f64>,
    len: usize,
    max: bool,
    margin: i32,
    grid: Grid,
}

impl Delayed {
    pub(super) fn new(len: usize, max: bool, margin: i32, grid: Grid) -> Self {
        Self {
            scale: 1.0,
            history: Vec::new(),
            len,
            max,
            margin,
            grid,
        }
    }

    /// Ends a step in which the largest magnitude was `amax`.
    pub(super) fn finish_step(&mut self, amax: f64) {
        self.history.push(if amax.is_finite() { amax } else { f64::INFINITY });
        let from = self.history.len().saturating_sub(self.len);
        let amax = match self.max {
            true => self.history[from..].iter().copied().fold(0.0, f64::max),
            false => amax,
        };
        if amax > 0.0 && amax.is_finite() {
            let scale = self.grid.largest / amax / 2f64.powi(self.margin);
            self.scale = scale.min(f64::from(f32::MAX));
        }
    }
}
