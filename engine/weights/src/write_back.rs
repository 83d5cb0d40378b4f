//! Sends written bytes to the disk while others are made and checked, so that only the end waits for the disk.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

use crate::error::{Result, WeightsError};

/// Written bytes after which the disk is given work.
const STEP: u64 = 128 << 20;

/// Most complete files that may wait for the disk at once: each has a thread and an open file.
const UNSYNCED: usize = 8;

/// A thread that synchronizes one file.
#[derive(Debug)]
pub struct WriteBack {
    path: PathBuf,
    /// `None` after the end.
    wake: Option<SyncSender<()>>,
    /// The file has all of its bytes.
    complete: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
    waiting: u64,
}

impl WriteBack {
    /// Starts the thread of a file that is being written.
    ///
    /// # Errors
    /// The system has no thread for it.
    pub fn of(file: &File, path: &Path) -> Result<Self> {
        let complete = Arc::new(AtomicBool::new(false));
        let (wake, woken) = sync_channel(1);
        let start = || {
            let (file, complete) = (file.try_clone()?, complete.clone());
            let work = move || {
                woken.iter().try_for_each(|()| file.sync_data())?;
                // A file that is given up is removed.
                if complete.load(Ordering::Acquire) {
                    file.sync_all()
                } else {
                    Ok(())
                }
            };
            std::thread::Builder::new().name("write back".into()).spawn(work)
        };
        let thread = start().map_err(WeightsError::io("write", path))?;
        Ok(Self {
            path: path.to_owned(),
            wake: Some(wake),
            complete,
            thread: Some(thread),
            waiting: 0,
        })
    }

    /// Counts written bytes.
    pub fn wrote(&mut self, bytes: u64) {
        self.waiting += bytes;
        // A full channel: the thread begins with these bytes, too, when it is done with the earlier ones.
        if self.waiting >= STEP && self.wake.as_ref().is_some_and(|wake| wake.try_send(()).is_ok()) {
            self.waiting = 0;
        }
    }

    /// Lets the thread bring all of the file to the disk, and does not wait for it.
    pub fn complete(&mut self) {
        self.complete.store(true, Ordering::Release);
        self.wake = None;
    }

    /// Waits until the complete file is on disk.
    fn finish(mut self) -> Result<()> {
        let path = std::mem::take(&mut self.path);
        self.join().map_err(WeightsError::io("write", &path))
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
        let _ = self.join();
    }
}

/// Complete files that may not be on disk yet.
#[derive(Debug, Default)]
pub struct Unsynced(VecDeque<WriteBack>);

impl Unsynced {
    /// Adds a complete file. Waits for the oldest one if there are many.
    ///
    /// # Errors
    /// The disk is full, or has failed.
    pub fn add(&mut self, file: WriteBack) -> Result<()> {
        self.0.push_back(file);
        let is_full = self.0.len() > UNSYNCED;
        let oldest = if is_full { self.0.pop_front() } else { None };
        oldest.map_or(Ok(()), WriteBack::finish)
    }

    /// Waits until all files are on disk.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub fn finish(self) -> Result<()> {
        self.0.into_iter().try_for_each(WriteBack::finish)
    }
}
