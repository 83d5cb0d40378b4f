//! Excerpts in reports: the lines around a problem, or a piece of a very long line.
//!
//! Text is quoted with escapes ([`visible`]), so underlines count shown characters; lines and columns count the text as
//! written.

use miette::{MietteError, MietteSpanContents, SourceCode, SourceSpan, SpanContents};

use super::{
    origin::{Source, Span},
    visible::{visible, visible_range},
};

/// Longest line that is quoted whole, in bytes.
const LONGEST_LINE: usize = 500;
/// A longer one is quoted in pieces of this many bytes, counted from its start.
const PIECE: usize = 80;
/// Most bytes that are underlined.
const LONGEST_LABEL: usize = 200;

impl SourceCode for Source {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        lines_before: usize,
        lines_after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let (start, end) = (self.written_offset(span.offset()), self.written_offset(span.offset() + span.len()));
        let quoted = self.read_written(&(start..end).into(), lines_before, lines_after)?;
        let offset = quoted.span().offset();
        let (start, end) = (self.shown_offset(offset), self.shown_offset(offset + quoted.data().len()));
        Ok(Box::new(MietteSpanContents::new_named(
            visible(self.name()).into_owned(),
            &self.shown().as_bytes()[start..end],
            (start..end).into(),
            quoted.line(),
            quoted.column(),
            quoted.line_count(),
        )))
    }
}

impl Source {
    /// Returns the excerpt for a `span` of the text as written.
    fn read_written<'a>(
        &'a self,
        span: &SourceSpan,
        lines_before: usize,
        lines_after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let contents = self.named().read_span(span, lines_before, lines_after)?;
        if contents.data().split(|byte| *byte == b'\n').all(|line| line.len() <= LONGEST_LINE) {
            return Ok(contents);
        }
        let text = self.text();
        let (start, end) = (span.offset(), span.offset() + span.len().max(1));
        let line_start = text[..before(text, start)].rfind('\n').map_or(0, |at| at + 1);
        let whole = |pieces: usize| line_start + pieces * PIECE;
        let mut from = after(text, whole((start - line_start) / PIECE));
        let to = before(text, whole((end - line_start).div_ceil(PIECE)));
        let label_end = before(text, start + span.len());
        let line_end = text[label_end..].find('\n').map_or(text.len(), |at| label_end + at);
        let to = to.min(line_end);
        if from >= to {
            // The end of the text, and of a piece.
            from = after(text, to.saturating_sub(PIECE).max(line_start));
        }
        let line = text[..from].matches('\n').count();
        let column = text[line_start..from].chars().count();
        Ok(Box::new(MietteSpanContents::new_named(
            self.name().to_owned(),
            &text.as_bytes()[from..to],
            (from, to - from).into(),
            line,
            column,
            1,
        )))
    }

    /// Returns the underlined part of `span`, in shown bytes.
    pub(super) fn underlined(&self, span: Span) -> Span {
        let end = before(self.text(), span.offset + span.len.min(LONGEST_LABEL));
        let start = self.shown_offset(span.offset);
        Span::new(start, self.shown_offset(end).saturating_sub(start))
    }

    /// Converts a byte offset of the written text to one of the shown text.
    fn shown_offset(&self, written: usize) -> usize {
        if self.shown() == self.text() {
            return written;
        }
        visible_range(self.text(), 0..written).len()
    }

    /// Converts a byte offset of the shown text to one of the written text.
    fn written_offset(&self, shown: usize) -> usize {
        let text = self.text();
        if self.shown() == text {
            return shown;
        }
        let mut seen = 0;
        for (at, c) in text.char_indices() {
            if seen >= shown {
                return at;
            }
            seen += visible_range(text, at..at + c.len_utf8()).len();
        }
        text.len()
    }
}

/// Returns the last character boundary at or before `at`.
fn before(text: &str, at: usize) -> usize {
    (0..=at.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or_default()
}

/// Returns the first character boundary at or after `at`.
fn after(text: &str, at: usize) -> usize {
    (at..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len())
}
