//! Heartbeat of a rank that writes its shard of a checkpoint. Writing and checksums may take minutes without any other
//! output.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Time between two beats.
const INTERVAL: Duration = Duration::from_millis(500);

/// Changes a small file until it is dropped, then removes the file.
#[derive(Debug)]
pub(super) struct Heartbeat {
    path: PathBuf,
    thread: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Heartbeat {
    /// Starts the heartbeat. Ignores errors: the write of the shard reports them.
    pub(super) fn start(path: PathBuf) -> Self {
        let (stop, stopped) = channel();
        let file = path.clone();
        let beat = move || {
            for count in 0_u64.. {
                let _ = std::fs::write(&file, count.to_string());
                if stopped.recv_timeout(INTERVAL) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("heartbeat".into()).spawn(beat);
        Self {
            path,
            thread: thread.ok().map(|thread| (stop, thread)),
        }
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.thread.take() {
            drop(stop);
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Another rank's view of a heartbeat.
#[derive(Debug)]
pub(super) struct HeartbeatMonitor {
    seen: Vec<u8>,
    changed: Instant,
}

impl HeartbeatMonitor {
    pub(super) fn new() -> Self {
        Self {
            seen: Vec::new(),
            changed: Instant::now(),
        }
    }

    /// Returns the time since the heartbeat in `path` was last seen to change.
    pub(super) fn quiet(&mut self, path: &Path) -> Duration {
        let found = std::fs::read(path).unwrap_or_default();
        if found != self.seen {
            (self.seen, self.changed) = (found, Instant::now());
        }
        self.changed.elapsed()
    }
}
