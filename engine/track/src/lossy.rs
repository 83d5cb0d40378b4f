//! A writer for output on which a run does not depend.

use std::io::{self, Write};

/// Drops output that cannot be written: a closed terminal, a full disk and a reader that exited do not stop a run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lossy<W>(pub W);

impl<W: Write> Write for Lossy<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.0.flush();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Accepts three bytes at most.
    struct Full(Vec<u8>);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let room = bytes.len().min(3 - self.0.len());
            self.0.extend_from_slice(&bytes[..room]);
            if room == 0 {
                Err(io::ErrorKind::StorageFull.into())
            } else {
                Ok(room)
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }
    }

    #[test]
    fn unwritable_output_is_dropped() {
        let mut full = Lossy(Full(Vec::new()));
        full.write_all(b"four")
            .and_then(|()| full.write_all(b"more"))
            .and_then(|()| full.flush())
            .unwrap();
        assert_eq!(full.0.0, b"fou");
    }
}
