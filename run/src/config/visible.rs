//! Escapes for control characters, and for characters that hide or reorder their neighbours.

use std::{borrow::Cow, fmt::Write as _, ops::Range};

/// Replaces such characters with the escapes of double-quoted text in YAML, JSON and TOML: `\r`, `\u001b`, `\u202e`. The
/// result is readable for people and the same value for programs.
///
/// Line breaks, also CR LF, and tabs stay.
pub fn visible(text: &str) -> Cow<'_, str> {
    visible_range(text, 0..text.len())
}

/// As [`visible`], for a range of `text`: the characters around it show whether a CR is part of a line break.
pub(super) fn visible_range(text: &str, range: Range<usize>) -> Cow<'_, str> {
    let Some(slice) = text.get(range.clone()) else {
        return Cow::Borrowed("");
    };
    if !slice.chars().any(is_hidden) {
        return Cow::Borrowed(slice);
    }
    let mut shown = String::with_capacity(slice.len());
    for (at, c) in slice.char_indices() {
        match c {
            '\r' if text[range.start + at + 1..].starts_with('\n') => shown.push(c),
            '\r' => shown.push_str("\\r"),
            c if is_hidden(c) => {
                // Writing to a string does not fail.
                let _ = write!(shown, "\\u{:04x}", u32::from(c));
            }
            c => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

/// Returns whether `c` is invisible. All such characters have at most 16 bits, so four digits are enough for an escape.
pub(super) fn is_hidden(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        // Direction marks and overrides, line separators, and zero-width characters.
        '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' => true,
        c => c.is_control(),
    }
}
