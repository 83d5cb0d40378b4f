//! A sign that a rank still writes its part of a checkpoint. Writing and summing up may take minutes in which nothing
//! else is seen of it; one that is gone or stopped gives no sign.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the sign changes.
const BEAT: Duration = Duration::from_millis(500);

/// Changes a small file as long as it lives, and removes it then.
#[derive(Debug)]
pub(super) struct Pulse {
    path: PathBuf,
    thread: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Pulse {
    /// Where no thread can be started or the file not be written, there is no sign, and the write itself will say why.
    pub(super) fn start(path: PathBuf) -> Self {
        let (stop, stopped) = channel();
        let file = path.clone();
        let beat = move || {
            for count in 0_u64.. {
                let _ = std::fs::write(&file, count.to_string());
                if stopped.recv_timeout(BEAT) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("checkpoint pulse".into()).spawn(beat);
        Self {
            path,
            thread: thread.ok().map(|thread| (stop, thread)),
        }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.thread.take() {
            drop(stop);
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

/// What another rank saw of a pulse.
#[derive(Debug)]
pub(super) struct Watch {
    seen: Vec<u8>,
    changed: Instant,
}

impl Watch {
    pub(super) fn new() -> Self {
        Self {
            seen: Vec::new(),
            changed: Instant::now(),
        }
    }

    /// For how long the pulse in `path` has not changed, as far as this was asked.
    pub(super) fn quiet(&mut self, path: &Path) -> Duration {
        let found = std::fs::read(path).unwrap_or_default();
        if found != self.seen {
            (self.seen, self.changed) = (found, Instant::now());
        }
        self.changed.elapsed()
    }
}
