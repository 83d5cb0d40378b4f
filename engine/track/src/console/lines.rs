//! Lines out of bytes that come in chunks.

/// A line is given out at this length at the latest, in bytes.
const LONGEST: usize = 64 * 1024;

/// The line that is under way.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pending: Vec<u8>,
}

impl Lines {
    /// Takes bytes and hands each line that they complete to `line`, without its end. Chunks may be cut anywhere,
    /// inside a character too.
    pub(super) fn push(&mut self, bytes: &[u8], mut line: impl FnMut(&str)) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.pending.extend_from_slice(part);
            if part.ends_with(b"\n") || self.pending.len() > LONGEST {
                self.end(&mut line);
            }
        }
    }

    /// Hands out the line that has no end, if there is one.
    pub(super) fn end(&mut self, mut line: impl FnMut(&str)) {
        let bytes = std::mem::take(&mut self.pending);
        if bytes.is_empty() {
            return;
        }
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_end_matches(['\n', '\r']);
        // What a terminal would show of a line that was written over.
        line(text.rsplit('\r').next().unwrap_or_default());
    }
}
