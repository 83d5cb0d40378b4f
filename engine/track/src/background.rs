//! A writer that never waits for its reader.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use crate::Lossy;

/// Maximum number of queued bytes; further output is dropped.
const MAX_QUEUED: usize = 16 << 20;

/// Writes on a separate thread, so that a reader that does not read (a full pipe, a terminal stopped with Ctrl-S) blocks
/// nothing. Output is dropped if it cannot be written or if the queue is full. Clones share the thread.
#[derive(Debug, Clone)]
pub struct Background {
    queue: Sender<Message>,
    queued: Arc<AtomicUsize>,
}

#[derive(Debug)]
enum Message {
    Bytes(Vec<u8>),
    /// Dropped when all earlier output is written.
    Done(Sender<()>),
}

impl Background {
    /// Creates a writer to `to`.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn new(to: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, messages) = channel();
        let queued = Arc::new(AtomicUsize::new(0));
        let left = Arc::clone(&queued);
        let write = move || {
            let mut to = Lossy(to);
            while let Ok(message) = messages.recv() {
                match message {
                    Message::Bytes(bytes) => {
                        let _ = to.write_all(&bytes).and_then(|()| to.flush());
                        left.fetch_sub(bytes.len(), Ordering::Relaxed);
                    }
                    Message::Done(done) => drop(done),
                }
            }
        };
        let _thread = thread::Builder::new().name("output".into()).spawn(write)?;
        Ok(Self { queue, queued })
    }

    /// Waits until all output is written, for at most `limit`.
    pub fn drain(&self, limit: Duration) {
        let (done, all) = channel();
        // The thread lives as long as `self`.
        let _ = self.queue.send(Message::Done(done));
        let _ = all.recv_timeout(limit);
    }
}

impl Write for Background {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.queued.load(Ordering::Relaxed) < MAX_QUEUED {
            self.queued.fetch_add(bytes.len(), Ordering::Relaxed);
            let _ = self.queue.send(Message::Bytes(bytes.to_vec()));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns true if a stream of this process goes to a file, which has no reader to wait for.
pub fn is_file(stream: &impl AsFd) -> bool {
    let file = stream.as_fd().try_clone_to_owned().map(File::from);
    file.and_then(|file| file.metadata()).is_ok_and(|metadata| metadata.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn a_slow_reader_neither_blocks_nor_loses_output() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut background = Background::new(writer).unwrap();
        // More than a pipe holds.
        let text = "0123456789".repeat(100_000);
        background.write_all(text.as_bytes()).unwrap();
        background.drain(Duration::from_millis(10));
        drop(background);
        let mut read = String::new();
        reader.read_to_string(&mut read).unwrap();
        assert!(read == text, "{} of {} bytes", read.len(), text.len());
    }

    #[test]
    fn output_beyond_the_limit_is_dropped() {
        let (_reader, writer) = io::pipe().unwrap();
        let mut background = Background::new(writer).unwrap();
        let block = vec![0; 1 << 20];
        for _ in 0..100 {
            background.write_all(&block).unwrap();
        }
        assert!(background.queued.load(Ordering::Relaxed) <= MAX_QUEUED + block.len());
    }
}
