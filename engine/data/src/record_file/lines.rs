//! Scanner of JSON Lines: finds the byte range of each line that is not blank.

use memchr::memchr_iter;

use super::spans::Spans;

/// Scanner of a file that is fed in chunks.
#[derive(Debug, Default)]
pub(super) struct LineScanner {
    pub(super) spans: Spans,
    /// The current line without the blanks around it.
    line: Option<(u64, u64)>,
}

impl LineScanner {
    /// Scans the next chunk, which starts at byte `base` of the file.
    pub(super) fn feed(&mut self, chunk: &[u8], base: u64) -> Result<(), String> {
        let mut at = 0;
        for newline in memchr_iter(b'\n', chunk) {
            self.extend(chunk.get(at..newline).unwrap_or_default(), base + at as u64);
            self.end_line()?;
            at = newline + 1;
        }
        self.extend(chunk.get(at..).unwrap_or_default(), base + at as u64);
        Ok(())
    }

    /// Adds a piece of the current line.
    fn extend(&mut self, piece: &[u8], base: u64) {
        let trimmed = piece.trim_ascii_start();
        let start = base + (piece.len() - trimmed.len()) as u64;
        let trimmed = trimmed.trim_ascii_end();
        if !trimmed.is_empty() {
            let end = start + trimmed.len() as u64;
            let first = self.line.map_or(start, |(first, _)| first);
            self.line = Some((first, end));
        }
    }

    fn end_line(&mut self) -> Result<(), String> {
        let Some((start, end)) = self.line.take() else { return Ok(()) };
        let record = self.spans.len();
        let pushed = self.spans.push(start..end);
        pushed.ok_or_else(|| format!("record {record} is larger than 4 GiB"))
    }

    /// Ends the last line, which may lack its newline.
    pub(super) fn finish(&mut self) -> Result<(), String> {
        self.end_line()
    }
}
