//! Splits chunks of bytes into lines.

/// Maximum length of a line in bytes; longer ones are split.
const MAX_LENGTH: usize = 64 * 1024;

/// The incomplete last line.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pending: Vec<u8>,
}

impl Lines {
    /// Adds bytes and passes each complete line to `line`, without its end. Chunks may be split anywhere, even inside a
    /// character.
    pub(super) fn push(&mut self, bytes: &[u8], mut line: impl FnMut(&str)) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.pending.extend_from_slice(part);
            if part.ends_with(b"\n") || self.pending.len() > MAX_LENGTH {
                self.end(&mut line);
            }
        }
    }

    /// Passes the incomplete last line to `line`, if there is one.
    pub(super) fn end(&mut self, mut line: impl FnMut(&str)) {
        let bytes = std::mem::take(&mut self.pending);
        if bytes.is_empty() {
            return;
        }
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_end_matches(['\n', '\r']);
        // A terminal shows only the text after a carriage return.
        line(text.rsplit('\r').next().unwrap_or_default());
    }
}
