//! Time limits in Slurm's forms.

/// Forms of a time limit, for messages.
pub(super) const FORMS: &str =
    "write minutes (`90`), `minutes:seconds`, `hours:minutes:seconds`, `days-hours`, `days-hours:minutes` or `days-hours:minutes:seconds`";

/// Returns the seconds of a time limit; 0 for one without an end (`0`, `UNLIMITED`). `None` if it has none of Slurm's forms.
pub fn time_limit_s(text: &str) -> Option<u64> {
    if ["unlimited", "infinite"].iter().any(|name| text.eq_ignore_ascii_case(name)) {
        return Some(0);
    }
    let (days, clock) = match text.split_once('-') {
        Some((days, clock)) => (Some(number(days)?), clock),
        None => (None, text),
    };
    let parts = clock.split(':').map(number).collect::<Option<Vec<_>>>()?;
    let (hours, minutes, seconds) = match (days, parts.as_slice()) {
        (None, [minutes]) => (0, *minutes, 0),
        (None, [minutes, seconds]) => (0, *minutes, *seconds),
        (Some(_), [hours]) => (*hours, 0, 0),
        (Some(_), [hours, minutes]) => (*hours, *minutes, 0),
        (_, [hours, minutes, seconds]) => (*hours, *minutes, *seconds),
        _ => return None,
    };
    let total = [(days.unwrap_or(0), 86_400), (hours, 3_600), (minutes, 60), (seconds, 1)];
    total
        .iter()
        .try_fold(0_u64, |sum, (count, unit)| sum.checked_add(count.checked_mul(*unit)?))
}

/// Parses digits only: a sign or a blank is not a number here.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_each_form_of_slurm() {
        for (text, seconds) in [
            ("90", 5_400),
            ("1:30", 90),
            ("04:00:00", 14_400),
            ("1-0", 86_400),
            ("1-2:30", 95_400),
            ("1-02:30:05", 95_405),
            ("0", 0),
            ("UNLIMITED", 0),
            ("infinite", 0),
        ] {
            assert_eq!(time_limit_s(text), Some(seconds), "{text}");
        }
        for text in [
            "",
            "4h",
            "1:2:3:4",
            "1-",
            "-1",
            "1-2-3",
            "1:",
            " 5",
            "1.5",
            "1-2:3:4:5",
            "99999999999999999999",
        ] {
            assert_eq!(time_limit_s(text), None, "{text}");
        }
    }
}
