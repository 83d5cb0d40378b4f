//! Marks around the answers in what a Jinja template renders.

use std::ops::Range;

/// Noncharacter in front of an answer.
pub(super) const START: char = '\u{fdd1}';
/// Noncharacter behind an answer.
pub(super) const END: char = '\u{fdd2}';

/// Place of the marks around an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// No marks.
    None,
    /// Around the whole answer.
    Outside,
    /// Within its outer whitespace, which many templates remove.
    Inside,
}

impl Place {
    /// Returns `answer` with marks.
    pub(super) fn mark(self, answer: &str) -> String {
        let inner = match self {
            Self::None => return answer.to_owned(),
            Self::Outside => answer,
            Self::Inside => answer.trim(),
        };
        let start = if self == Self::Inside {
            answer.len() - answer.trim_start().len()
        } else {
            0
        };
        let (before, after) = (&answer[..start], &answer[start + inner.len()..]);
        format!("{before}{START}{inner}{END}{after}")
    }
}

/// Returns the text without marks, and the ranges between them. `None`: they do not come in pairs.
pub(super) fn split(marked: &str) -> Option<(String, Vec<Range<usize>>)> {
    let (mut text, mut ranges, mut open) = (String::with_capacity(marked.len()), Vec::new(), None);
    for piece in marked.split_inclusive([START, END]) {
        let plain = piece.trim_end_matches([START, END]);
        text += plain;
        match piece.chars().next_back() {
            Some(START) if open.is_none() => open = Some(text.len()),
            Some(END) => ranges.push(open.take()?..text.len()),
            Some(START) => return None,
            _ => {}
        }
    }
    open.is_none().then_some((text, ranges))
}

/// Returns a template's source in which Hugging Face's `{% generation %}` is a call that marks what it renders.
pub(super) fn with_generation_calls(source: &str) -> (String, bool) {
    let (mut rewritten, mut rest, mut found) = (String::with_capacity(source.len()), source, false);
    while let Some(open) = rest.find("{%") {
        let Some(length) = rest[open + 2..].find("%}").map(|at| at + 2) else {
            break;
        };
        let (before, from) = rest.split_at(open);
        let (tag, after) = from.split_at(length + 2);
        let inner = &tag[2..tag.len() - 2];
        let word = inner.trim_matches(['-', '+']).trim();
        let call = match word {
            "generation" => Some("call generation()"),
            "endgeneration" => Some("endcall"),
            _ => None,
        };
        rewritten += before;
        match call {
            Some(call) => {
                found = true;
                let inner = inner.replacen(word, call, 1);
                rewritten.extend(["{%", inner.as_str(), "%}"]);
            }
            None => rewritten += tag,
        }
        rest = after;
    }
    rewritten += rest;
    (rewritten, found)
}
