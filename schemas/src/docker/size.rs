//! Amounts of memory in Docker's form.

/// Returns the bytes of `64m`, `16g`, `16gb` or a plain number; `None` for another form.
pub fn memory_size(text: &str) -> Option<i64> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match lower[digits.len()..].trim_end_matches('b') {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1_i64 << 40,
        _ => return None,
    };
    let number: i64 = digits.parse().ok().filter(|number| *number > 0)?;
    number.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_dockers_sizes() {
        for (text, bytes) in [
            ("64m", Some(64 << 20)),
            ("16G", Some(16 << 30)),
            ("2gb", Some(2 << 30)),
            ("4096", Some(4096)),
            ("1b", Some(1)),
            ("0", None),
            ("-1g", None),
            ("", None),
            ("g", None),
            ("8GiB", None),
            ("1.5g", None),
            ("9999999999t", None),
        ] {
            assert_eq!(memory_size(text), bytes, "{text}");
        }
    }
}
