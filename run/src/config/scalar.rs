//! Values of plain scalars for each type: the YAML 1.2 core schema, with `_` allowed between digits.

/// Returns whether `text` is `null`, `~` or empty.
pub(super) fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

/// Returns whether an optional field reads `text` as "none": [`is_null`], or Python's `None`.
pub(super) fn is_none(text: &str) -> bool {
    is_null(text) || text == "None"
}

/// Parses `true` or `false`. The `yes`, `no`, `on` and `off` of YAML 1.1 are text.
pub(super) fn bool(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" => Some(true),
        "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

/// Parses the value of a boolean field: as [`bool`], or `1`, `0`, `yes`, `no`, `on`, `off` as in NeMo-Run, in any case.
pub(super) fn flag(text: &str) -> Option<bool> {
    bool_like(text).filter(|_| !text.eq_ignore_ascii_case("y") && !text.eq_ignore_ascii_case("n"))
}

/// Parses a boolean of YAML 1.1 or a common spelling of one, for suggestions.
pub(super) fn bool_like(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "y" | "1" => Some(true),
        "false" | "no" | "off" | "n" | "0" => Some(false),
        _ => None,
    }
}

/// Parses an integer: `12`, `-7`, `+1`, `1_000`, `0x1F`, `0o17`.
pub(super) fn int(text: &str) -> Option<i128> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (radix, digits) = match digits.get(..2) {
        Some("0x") => (16, &digits[2..]),
        Some("0o") => (8, &digits[2..]),
        _ => (10, digits),
    };
    let digits = without_separators(digits)?;
    if !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    let value = i128::from_str_radix(&digits, radix).ok()?;
    Some(if negative { -value } else { value })
}

/// Parses a float: `1.5`, `.5`, `1.`, `1e-5`, `1_000.5`, any [`int`], `.inf`, `-.inf`, `.nan`. Returns `None` for a
/// number too large for an `f64`.
pub(super) fn float(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let sign = if text.starts_with('-') { -1.0 } else { 1.0 };
    match unsigned {
        ".inf" | ".Inf" | ".INF" => return Some(sign * f64::INFINITY),
        ".nan" | ".NaN" | ".NAN" if unsigned.len() == text.len() => return Some(f64::NAN),
        _ => {}
    }
    // Rust also parses `inf` and `nan`, which are text in YAML: hence the check of the characters.
    let numeric = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-' | '_');
    if unsigned.starts_with(['-', '+']) || !unsigned.chars().all(numeric) {
        return int(text).map(|value| value as f64);
    }
    let value: f64 = without_separators(unsigned)?.parse().ok()?;
    value.is_finite().then_some(sign * value)
}

/// Returns the shortest YAML float that parses to the same `f64`: `2e-5`, `1.0`, `.nan`.
pub(super) fn float_text(value: f64) -> String {
    if value.is_nan() {
        ".nan".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { ".inf" } else { "-.inf" }.to_owned()
    } else {
        format!("{value:?}")
    }
}

/// Removes `_`, each of which must be between two digits.
fn without_separators(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let digit = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_hexdigit);
    let misplaced = |at: usize| bytes[at] == b'_' && !(digit(at.checked_sub(1)) && digit(Some(at + 1)));
    if text.is_empty() || (0..bytes.len()).any(misplaced) {
        return None;
    }
    Some(text.replace('_', ""))
}
