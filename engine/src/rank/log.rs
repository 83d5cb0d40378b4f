//! The log of a rank on standard error. Its last lines are the failure.

use neva_track::{Background, Lossy, is_file};
use std::io::{self, Write};
use std::time::Duration;

/// Longest wait at the end of a rank until a reader has taken its log.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Writer to standard error that never fails and never waits for a reader. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Log(Option<Background>);

impl Log {
    pub(super) fn start() -> Self {
        // A file has no slow reader, and keeps the order of both streams.
        let may_block = !is_file(&io::stderr());
        Self(may_block.then(|| Background::new(io::stderr()).ok()).flatten())
    }

    /// Waits until everything is written, at most [`DRAIN_TIMEOUT`].
    pub(super) fn finish(&self) {
        if let Some(background) = &self.0 {
            background.drain(DRAIN_TIMEOUT);
        }
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Some(background) => background.write(bytes),
            None => Lossy(io::stderr()).write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
