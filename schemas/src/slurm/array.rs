//! Ranges of arrays.

/// A range of an array: `0-7%2`, `1,3,5-9:2`, or the cap alone, `%2`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlurmArray {
    /// Slurm's range without the cap; empty if only the cap is given.
    pub range: String,
    /// Maximum number of tasks that run at once.
    pub cap: Option<u32>,
}

impl SlurmArray {
    /// Parses a range; `None` if it has another form.
    pub fn parse(text: &str) -> Option<Self> {
        let (range, cap) = match text.split_once('%') {
            Some((range, cap)) => (range, Some(number(cap).filter(|cap| *cap > 0)?)),
            None => (text, None),
        };
        let valid = |item: &str| {
            let (span, step) = item.split_once(':').map_or((item, None), |(span, step)| (span, Some(step)));
            let (first, last) = span.split_once('-').map_or((span, None), |(first, last)| (first, Some(last)));
            let first = number(first)?;
            match (last, step) {
                (None, None) => Some(()),
                (Some(last), step) => {
                    let step = step.map_or(Some(1), number)?;
                    (number(last)? >= first && step > 0).then_some(())
                }
                (None, Some(_)) => None,
            }
        };
        let is_valid = match range {
            "" => cap.is_some(),
            range => range.split(',').all(|item| valid(item).is_some()),
        };
        is_valid.then(|| Self {
            range: range.to_owned(),
            cap,
        })
    }
}

fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_ranges_and_caps() {
        for (text, range, cap) in [
            ("0-7%2", "0-7", Some(2)),
            ("1,3,5-9:2", "1,3,5-9:2", None),
            ("4", "4", None),
            ("%3", "", Some(3)),
        ] {
            let expected = SlurmArray {
                range: range.to_owned(),
                cap,
            };
            assert_eq!(SlurmArray::parse(text), Some(expected), "{text}");
        }
        for text in ["", "%", "%0", "7-0", "1-", "-1", "1:2", "1-4:0", "a", "1,,2", "0-7%x", "1 - 2"] {
            assert_eq!(SlurmArray::parse(text), None, "{text}");
        }
    }
}
