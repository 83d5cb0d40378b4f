//! Parses the bytes of one record, and explains what is not JSON in them.

use std::path::Path;

use serde_json::Value;

/// Parses a record that starts at byte `offset` of the file `path`.
///
/// # Errors
/// Returns the reason, with the position in the file and what to do.
pub(super) fn parse(bytes: &[u8], offset: u64, path: &Path) -> Result<Value, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| not_utf8(bytes, error.valid_up_to(), offset, path))?;
    serde_json::from_str(text).map_err(|error| not_json(text, &error, offset))
}

fn not_utf8(bytes: &[u8], at: usize, offset: u64, path: &Path) -> String {
    let place = offset + at as u64;
    match bytes.get(at..) {
        Some([0xed, 0xa0..=0xbf, ..]) => {
            format!("has half of a UTF-16 surrogate pair, encoded as UTF-8, at byte {place} of the file: {SURROGATE}")
        }
        rest => format!(
            "is not UTF-8: byte 0x{:02x} at byte {place} of the file; if the file is Latin-1 (Windows-1252), convert it with \
             `iconv -f WINDOWS-1252 -t UTF-8 {} > NEW.json`",
            rest.and_then(<[u8]>::first).unwrap_or(&0),
            path.display()
        ),
    }
}

const SURROGATE: &str = "a text was cut within an emoji; write the record again, without that character";

fn not_json(text: &str, error: &serde_json::Error, offset: u64) -> String {
    let at = position(text, error);
    if let Some((place, reason)) = first_known(text).filter(|(place, _)| *place <= at) {
        return format!("{reason} (byte {} of the file)", offset + place as u64);
    }
    let reason = error.to_string();
    let reason = reason.split(" at line ").next().unwrap_or_default();
    let before = text.get(..at).unwrap_or(text);
    let near: String = before.chars().rev().take(24).collect::<Vec<_>>().into_iter().rev().collect();
    format!(
        "is not JSON: {reason} at byte {} of the file, after `{}`",
        offset + at as u64,
        near.trim()
    )
}

/// Returns the byte position of an error in `text`.
fn position(text: &str, error: &serde_json::Error) -> usize {
    let mut lines = text.split_inclusive('\n');
    let before: usize = lines.by_ref().take(error.line().saturating_sub(1)).map(str::len).sum();
    let mut at = (before + error.column()).min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Words that other languages write in place of JSON's values.
const WORDS: [(&str, &str); 7] = [
    ("NaN", "`NaN` is not JSON: write null, or leave the field out"),
    ("Infinity", "`Infinity` is not JSON: write null, or leave the field out"),
    ("-Infinity", "`-Infinity` is not JSON: write null, or leave the field out"),
    ("None", "`None` is Python, not JSON: write the file with `json.dump`"),
    ("True", "`True` is Python, not JSON: write the file with `json.dump`"),
    ("False", "`False` is Python, not JSON: write the file with `json.dump`"),
    ("'", "`'` is not JSON, where strings have `\"`: write the file with `json.dump`"),
];

/// Returns position and description of the first known fault: a word of another language, or half of a surrogate pair.
fn first_known(text: &str) -> Option<(usize, String)> {
    let bytes = text.as_bytes();
    let (mut at, mut in_string) = (0, false);
    while let Some(byte) = bytes.get(at) {
        match (in_string, byte) {
            (_, b'"') => in_string = !in_string,
            (true, b'\\') => match escape(bytes.get(at..)?) {
                Escape::Pair => at += 11,
                Escape::Half => {
                    let shown = text.get(at..at + 6).unwrap_or_default();
                    return Some((at, format!("has half of a UTF-16 surrogate pair, `{shown}`: {SURROGATE}")));
                }
                Escape::Other => at += 1,
            },
            (false, b'N' | b'I' | b'-' | b'T' | b'F' | b'\'') => {
                let word = WORDS
                    .iter()
                    .find(|(word, _)| text.get(at..).is_some_and(|rest| rest.starts_with(word)));
                if let Some((_, reason)) = word {
                    return Some((at, (*reason).to_owned()));
                }
            }
            _ => {}
        }
        at += 1;
    }
    None
}

enum Escape {
    /// Both halves of a surrogate pair.
    Pair,
    /// One of them.
    Half,
    Other,
}

fn escape(bytes: &[u8]) -> Escape {
    let unit = |bytes: &[u8]| match bytes {
        [b'\\', b'u', digits @ ..] => u16::from_str_radix(std::str::from_utf8(digits.get(..4)?).ok()?, 16).ok(),
        _ => None,
    };
    match unit(bytes) {
        Some(0xd800..=0xdbff) => match bytes.get(6..).and_then(unit) {
            Some(0xdc00..=0xdfff) => Escape::Pair,
            _ => Escape::Half,
        },
        Some(0xdc00..=0xdfff) => Escape::Half,
        _ => Escape::Other,
    }
}
