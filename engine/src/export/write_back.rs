//! Sends written bytes to the disk while others are made, so that the end of a file does not wait for all of it.

use std::fs::File;
use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Written bytes after which the disk is given work.
const STEP: usize = 128 << 20;

/// A thread that synchronizes one file.
#[derive(Debug)]
pub(super) struct WriteBack {
    /// `None` after the end.
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<io::Result<()>>>,
    waiting: usize,
}

impl WriteBack {
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let file = file.try_clone()?;
        let (wake, woken) = sync_channel(1);
        let work = move || woken.iter().try_for_each(|()| file.sync_data());
        Ok(Self {
            wake: Some(wake),
            thread: Some(std::thread::Builder::new().name("write back".into()).spawn(work)?),
            waiting: 0,
        })
    }

    /// Counts written bytes.
    pub(super) fn wrote(&mut self, bytes: usize) {
        self.waiting += bytes;
        // A full channel: the thread begins with these bytes, too, when it is done with the earlier ones.
        if self.waiting >= STEP && self.wake.as_ref().is_some_and(|wake| wake.try_send(()).is_ok()) {
            self.waiting = 0;
        }
    }

    /// Waits for the thread.
    ///
    /// # Errors
    /// The disk failed: the file's next synchronization does not report this again.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.join()
    }

    fn join(&mut self) -> io::Result<()> {
        self.wake = None;
        let ended = self.thread.take().map(JoinHandle::join);
        ended.unwrap_or(Ok(Ok(()))).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for WriteBack {
    fn drop(&mut self) {
        // The folder is removed after an error, and no thread may hold its files.
        drop(self.join());
    }
}
