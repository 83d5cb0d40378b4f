//! Reads a pipe, with a deadline.

use std::{
    fs::OpenOptions,
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

/// Time between two looks at a pipe without data.
const INTERVAL: Duration = Duration::from_millis(5);

/// Reads all that is written to the pipe at `path`. Opening a pipe would wait for a writer for ever, and no signal ends
/// that wait.
///
/// # Errors
/// Nothing was written for `deadline`, or the pipe cannot be read.
#[expect(clippy::disallowed_methods, reason = "there is no condition to wait on; the wait has a deadline")]
pub(super) fn read(path: &Path, deadline: Duration) -> io::Result<Vec<u8>> {
    let mut pipe = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let (mut bytes, mut chunk) = (Vec::new(), vec![0; 1 << 16]);
    let mut last = Instant::now();
    loop {
        match pipe.read(&mut chunk) {
            // Before the first byte, this means that there is no writer yet.
            Ok(0) if !bytes.is_empty() => return Ok(bytes),
            Ok(0) => {}
            Ok(count) => {
                bytes.extend_from_slice(chunk.get(..count).unwrap_or_default());
                last = Instant::now();
                continue;
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        if last.elapsed() > deadline {
            let text = format!("it is a pipe, to which no program wrote for {} s", deadline.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        sleep(INTERVAL);
    }
}
