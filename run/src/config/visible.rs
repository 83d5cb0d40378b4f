//! Characters that a terminal obeys, and those that hide or reorder what stands round them.

use std::{borrow::Cow, fmt::Write as _, ops::Range};

/// `text` with such characters as the escapes that a text in double quotes has in YAML, JSON and TOML: `\r`, `\u001b`,
/// `\u202e`. So it is what its author wrote for people, and the same value as before for programs.
///
/// Line breaks, CR LF among them, and tabs are left as they are.
pub fn visible(text: &str) -> Cow<'_, str> {
    visible_part(text, 0..text.len())
}

/// [`visible`] of a part of `text`, whose neighbours tell what a CR is.
pub(super) fn visible_part(text: &str, part: Range<usize>) -> Cow<'_, str> {
    let Some(part_text) = text.get(part.clone()) else {
        return Cow::Borrowed("");
    };
    if !part_text.chars().any(is_hidden) {
        return Cow::Borrowed(part_text);
    }
    let mut shown = String::with_capacity(part_text.len());
    for (at, c) in part_text.char_indices() {
        match c {
            '\r' if text[part.start + at + 1..].starts_with('\n') => shown.push(c),
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

/// Whether `c` is no character to see. None is beyond 16 bits, so each has an escape of four digits.
pub(super) fn is_hidden(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        // Marks and overrides of direction, separators of lines, and what has no width.
        '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' => true,
        c => c.is_control(),
    }
}
