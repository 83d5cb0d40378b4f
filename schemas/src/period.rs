//! Durations as written in files.

use crate::validate::Problem;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A duration in whole seconds: `90s`, `15m`, `12h`, `2d`, `1h30m`, or Lightning's `DD:HH:MM:SS` and `HH:MM:SS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(u64);

impl Period {
    /// Creates a period of `seconds` seconds.
    pub fn seconds(seconds: u64) -> Self {
        Self(seconds)
    }

    /// Creates a period of `minutes` minutes.
    pub fn minutes(minutes: u64) -> Self {
        Self(minutes * 60)
    }

    /// Returns the period as a [`Duration`].
    pub fn duration(self) -> Duration {
        Duration::from_secs(self.0)
    }
}

/// Appends an error if a period is 0.
pub(crate) fn validate_period(path: &str, problems: &mut Vec<Problem>, name: &str, period: Option<Period>) {
    if period == Some(Period(0)) {
        let message = format!("`{name}` is 0s, it must be at least 1s");
        problems.push(Problem::error(format!("{path}.{name}"), message).help("null disables it"));
    }
}

/// Seconds in a unit.
const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3600), ('m', 60), ('s', 1)];

impl FromStr for Period {
    /// The problem, and on a second line what to write instead.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a duration\nwrite 90s, 15m, 12h, 1h30m, HH:MM:SS or DD:HH:MM:SS");
        let seconds = if text.contains(':') { clock(text) } else { units(text) };
        seconds.map(Self).ok_or_else(wrong)
    }
}

/// Parses `HH:MM:SS` or `DD:HH:MM:SS`, in seconds.
fn clock(text: &str) -> Option<u64> {
    let parts: Vec<u64> = text.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let (days, [hours, minutes, seconds]) = match parts[..] {
        [days, hours, minutes, seconds] => (days, [hours, minutes, seconds]),
        [hours, minutes, seconds] => (0, [hours, minutes, seconds]),
        _ => return None,
    };
    [(days, 86_400), (hours, 3600), (minutes, 60), (seconds, 1)]
        .iter()
        .try_fold(0u64, |sum, (count, unit)| sum.checked_add(count.checked_mul(*unit)?))
}

/// Parses numbers with units, in descending order, in seconds.
fn units(text: &str) -> Option<u64> {
    let (mut rest, mut sum, mut below) = (text, 0u64, u64::MAX);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let count: u64 = rest[..digits].parse().ok()?;
        let letter = rest[digits..].chars().next()?;
        let (_, unit) = UNITS.iter().find(|(name, unit)| *name == letter && *unit < below)?;
        sum = sum.checked_add(count.checked_mul(*unit)?)?;
        (rest, below) = (&rest[digits + 1..], *unit);
    }
    (!text.is_empty()).then_some(sum)
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        if rest == 0 {
            return f.write_str("0s");
        }
        for (name, unit) in UNITS {
            if rest >= unit {
                write!(f, "{}{name}", rest / unit)?;
                rest %= unit;
            }
        }
        Ok(())
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Period {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Period".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "Duration: 90s, 15m, 12h, 2d, 1h30m, or DD:HH:MM:SS and HH:MM:SS.",
            "pattern": "^(([0-9]+:)?[0-9]+:[0-9]+:[0-9]+|(?=.)([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?)$"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_a_parsed_period_in_units() {
        for (text, seconds, printed) in [
            ("90s", 90, "1m30s"),
            ("15m", 900, "15m"),
            ("12h", 43_200, "12h"),
            ("1h30m", 5400, "1h30m"),
            ("2d", 172_800, "2d"),
            ("00:12:00:00", 43_200, "12h"),
            ("00:10:05", 605, "10m5s"),
            ("0s", 0, "0s"),
        ] {
            let period: Period = text.parse().unwrap();
            assert_eq!((period, period.to_string().as_str()), (Period(seconds), printed), "{text}");
            assert_eq!(printed.parse(), Ok(period), "{text}");
        }
    }

    #[test]
    fn refuses_invalid_periods() {
        for text in [
            "",
            "15",
            "m",
            "15x",
            "1m1h",
            "1h1h",
            "1:2",
            "1:2:3:4:5",
            "-1s",
            "1.5h",
            "99999999999999999999s",
            "9999999999999999999d",
            "1é",
        ] {
            assert!(text.parse::<Period>().is_err(), "{text}");
        }
    }
}
