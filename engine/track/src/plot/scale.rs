//! Scales of axes: positions of values, and ticks.

/// Approximate number of ticks of an axis.
const TICKS: f64 = 5.0;
/// Larger values count as missing, because their span would overflow.
const LARGEST: f64 = 1e300;
/// Minimum span of an axis in units of its largest value: below it tick labels would be equal.
const MIN_SPAN: f64 = 1e-9;
/// Fraction of a span that is left free at both ends.
const MARGIN: f64 = 0.05;

/// The range of an axis. Positions are fractions of its length, 0 at its start.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scale {
    /// Linear.
    Linear { low: f64, high: f64 },
    /// Logarithmic; the bounds are decimal logarithms.
    Log { low: f64, high: f64 },
    /// Steps, which are integers.
    Steps { low: f64, high: f64 },
}

/// A mark on an axis.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tick {
    /// Position on the axis.
    pub place: f64,
    /// Label.
    pub label: String,
}

/// Returns true if a value can be drawn.
pub(super) fn drawable(value: f64) -> bool {
    value.abs() <= LARGEST
}

impl Scale {
    /// Fits the drawable ones of `values`. The range extends below zero only if values do.
    pub(super) fn linear(values: &[f64]) -> Option<Self> {
        let (low, high) = bounds(values)?;
        let (wide_low, high) = widen(low, high, MARGIN, f64::MIN_POSITIVE);
        let low = if low >= 0.0 { wide_low.max(0.0) } else { wide_low };
        Some(Self::Linear { low, high })
    }

    /// Like [`Scale::linear`], but logarithmic if all values are positive and span more than a decade.
    pub(super) fn decades(values: &[f64]) -> Option<Self> {
        let (low, high) = bounds(values)?;
        if low <= 0.0 || high.log10() - low.log10() <= 1.0 {
            return Self::linear(values);
        }
        let (low, high) = widen(low.log10(), high.log10(), MARGIN, 1.0);
        Some(Self::Log { low, high })
    }

    /// Fits `steps` without a margin: a curve starts at the edge.
    pub(super) fn steps(steps: &[f64]) -> Option<Self> {
        let (low, high) = bounds(steps)?;
        let (low, high) = widen(low, high, 0.0, 1.0);
        Some(Self::Steps { low: low.max(0.0), high })
    }

    /// Returns the position of `value`, one of the fitted values.
    pub(super) fn place(self, value: f64) -> f64 {
        match self {
            Self::Linear { low, high } | Self::Steps { low, high } => (value - low) / (high - low),
            Self::Log { low, high } => (value.log10() - low) / (high - low),
        }
    }

    pub(super) fn ticks(self) -> Vec<Tick> {
        match self {
            Self::Linear { low, high } => linear_ticks(low, high, 0.0),
            Self::Steps { low, high } => linear_ticks(low, high, 1.0),
            Self::Log { low, high } => log_ticks(low, high),
        }
    }
}

/// Returns the smallest and the largest drawable value.
fn bounds(values: &[f64]) -> Option<(f64, f64)> {
    values.iter().copied().filter(|value| drawable(*value)).fold(None, |bounds, value| {
        let (low, high) = bounds.unwrap_or((value, value));
        Some((value.min(low), value.max(high)))
    })
}

/// Adds the fraction `margin` at both ends. A flat range becomes one around its middle, of at least `least`.
fn widen(low: f64, high: f64, margin: f64, least: f64) -> (f64, f64) {
    let (span, size) = (high - low, low.abs().max(high.abs()));
    let pad = if size < f64::MIN_POSITIVE / MIN_SPAN {
        1.0
    } else if span < size * MIN_SPAN {
        (size * 0.1).max(least)
    } else {
        span * margin
    };
    (low - pad, high + pad)
}

/// Returns multiples of 1, 2 or 5 times a power of ten, at least `least` apart.
fn linear_ticks(low: f64, high: f64, least: f64) -> Vec<Tick> {
    let rough = ((high - low) / TICKS).max(least);
    let power = 10_f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power >= rough * 0.75);
    let step = (factor.unwrap_or(10.0) * power).max(least);
    let size = low.abs().max(high.abs());
    let (first, last) = ((low / step).ceil() as i64, (high / step).floor() as i64);
    (first..=last)
        .map(|index| {
            let value = index as f64 * step;
            Tick {
                place: (value - low) / (high - low),
                label: label(value, step, size),
            }
        })
        .collect()
}

/// Returns powers of ten, with their double and fivefold if there are few, and only some if there are many.
fn log_ticks(low: f64, high: f64) -> Vec<Tick> {
    let decades = high - low;
    let factors: &[u8] = if decades <= 3.0 { &[1, 2, 5] } else { &[1] };
    let every = (decades / (TICKS + 2.0)).ceil().max(1.0) as i32;
    (low.floor() as i32..=high.ceil() as i32)
        .filter(|power| power.rem_euclid(every) == 0)
        .flat_map(|power| factors.iter().map(move |&factor| (factor, power)))
        .filter_map(|(factor, power)| {
            let place = (f64::from(power) + f64::from(factor).log10() - low) / decades;
            let label = match power {
                -3..0 => format!("{:.*}", power.unsigned_abs() as usize, f64::from(factor) * 10_f64.powi(power)),
                0..=5 => (u32::from(factor) * 10_u32.pow(power.unsigned_abs())).to_string(),
                _ => format!("{factor}e{power}"),
            };
            (0.0..=1.0).contains(&place).then_some(Tick { place, label })
        })
        .collect()
}

/// Formats `value` with the digits that distinguish it from its neighbours at distance `step`. The format is the same
/// along an axis whose largest value is `size`.
fn label(value: f64, step: f64, size: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let last_digit = (step.log10() + 1e-9).floor();
    if (1e-3..1e6).contains(&size) {
        return format!("{value:.*}", (-last_digit).max(0.0) as usize);
    }
    let digits = (value.abs().log10() + 1e-9).floor() - last_digit;
    let text = format!("{value:.*e}", digits.max(0.0) as usize);
    match text.split_once('e') {
        Some((mantissa, power)) if mantissa.contains('.') => {
            format!("{}e{power}", mantissa.trim_end_matches('0').trim_end_matches('.'))
        }
        _ => text,
    }
}
