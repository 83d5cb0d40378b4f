//! From values to places along an axis, and the ticks of the axis.

/// About as many ticks as an axis gets.
const TICKS: f64 = 5.0;
/// A larger value counts as missing: a span of such would overflow.
const LARGEST: f64 = 1e300;
/// Least span of an axis in units of its largest value: below it ticks could not be told apart.
const LEAST_SPAN: f64 = 1e-9;
/// Share of a span that is left free at both ends.
const AIR: f64 = 0.05;

/// The range of an axis. Places are shares of its length, 0 at its start.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scale {
    /// In proportion to the value.
    Linear { low: f64, high: f64 },
    /// In proportion to the value's decimal logarithm, which the bounds are.
    Log { low: f64, high: f64 },
    /// Steps, which are whole.
    Steps { low: f64, high: f64 },
}

/// A mark on an axis.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tick {
    /// Share of the axis.
    pub place: f64,
    /// What stands beside it.
    pub label: String,
}

/// Whether a value can be drawn.
pub(super) fn drawable(value: f64) -> bool {
    value.abs() <= LARGEST
}

impl Scale {
    /// Fits `values`, of which the drawable count. Zero is not undercut by values that do not.
    pub(super) fn linear(values: &[f64]) -> Option<Self> {
        let (low, high) = bounds(values)?;
        let (wide_low, high) = widen(low, high, AIR, f64::MIN_POSITIVE);
        let low = if low >= 0.0 { wide_low.max(0.0) } else { wide_low };
        Some(Self::Linear { low, high })
    }

    /// As [`Scale::linear`], but logarithmic where all values are positive and span more than a decade.
    pub(super) fn decades(values: &[f64]) -> Option<Self> {
        let (low, high) = bounds(values)?;
        if low <= 0.0 || high.log10() - low.log10() <= 1.0 {
            return Self::linear(values);
        }
        let (low, high) = widen(low.log10(), high.log10(), AIR, 1.0);
        Some(Self::Log { low, high })
    }

    /// Fits `steps` without air: a curve starts at the edge.
    pub(super) fn steps(steps: &[f64]) -> Option<Self> {
        let (low, high) = bounds(steps)?;
        let (low, high) = widen(low, high, 0.0, 1.0);
        Some(Self::Steps { low: low.max(0.0), high })
    }

    /// Where `value`, which is one of those that the scale was fitted to, lies.
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

/// Smallest and largest of those that can be drawn.
fn bounds(values: &[f64]) -> Option<(f64, f64)> {
    values.iter().copied().filter(|value| drawable(*value)).fold(None, |bounds, value| {
        let (low, high) = bounds.unwrap_or((value, value));
        Some((value.min(low), value.max(high)))
    })
}

/// Adds `air` at both ends; a range that is flat becomes one round its middle, of at least `least`.
fn widen(low: f64, high: f64, air: f64, least: f64) -> (f64, f64) {
    let (span, size) = (high - low, low.abs().max(high.abs()));
    let pad = if size < f64::MIN_POSITIVE / LEAST_SPAN {
        1.0
    } else if span < size * LEAST_SPAN {
        (size * 0.1).max(least)
    } else {
        span * air
    };
    (low - pad, high + pad)
}

/// Multiples of 1, 2 or 5 times a power of ten, and at least `least` apart.
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

/// Powers of ten; their double and fivefold too where there are few, and only some where there are many.
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

/// `value` with the digits that set it apart from its neighbours, which are `step` away. The form is the
/// same along an axis whose largest value is `size`.
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
