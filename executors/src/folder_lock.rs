//! The lock that says that a folder is in use.

use std::{
    fs::{File, OpenOptions},
    io,
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

/// How long the lock may be in other hands for a moment: somebody who only asks holds it for microseconds, and whoever
/// has just said that he is done is about to give it back.
const PATIENCE: Duration = Duration::from_millis(500);
const TICK: Duration = Duration::from_millis(1);

/// A lock that is held while this lives. The system releases it should its holder die.
#[derive(Debug)]
pub struct FolderLock {
    file: File,
}

impl FolderLock {
    /// Takes the lock at `path`. `None` where it is held, for half a second on end. Blocks that long.
    ///
    /// # Errors
    /// A file that cannot be created or locked.
    pub fn take(path: &Path) -> io::Result<Option<Self>> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let end = Instant::now() + PATIENCE;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Some(Self { file })),
                Err(Errno::WOULDBLOCK) if Instant::now() < end => std::thread::park_timeout(TICK),
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether somebody holds the lock at `path`.
    ///
    /// # Errors
    /// A file that is not there (it was never locked), and one that cannot be read or locked.
    pub fn is_held(path: &Path) -> io::Result<bool> {
        // To ask, a file that may only be read is enough. Shared, so that two who ask at the same time do not take
        // each other for the holder.
        let file = File::open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => {
                drop(Self { file });
                Ok(false)
            }
            Err(Errno::WOULDBLOCK) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for FolderLock {
    /// Said, because closing the file is not enough: a process that another thread is about to start has the file, too,
    /// from its fork to its exec, and would hold the lock that long.
    fn drop(&mut self) {
        // The only errors are those of a file that is not open.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_it_and_others_see_that() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        assert_eq!(FolderLock::is_held(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        let lock = FolderLock::take(&path).unwrap().unwrap();
        assert!(FolderLock::is_held(&path).unwrap());
        assert!(FolderLock::take(&path).unwrap().is_none());
        drop(lock);
        assert!(!FolderLock::is_held(&path).unwrap());
        assert!(FolderLock::take(&path).unwrap().is_some());
    }

    #[test]
    fn it_is_free_although_a_fork_still_has_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let lock = FolderLock::take(&path).unwrap().unwrap();
        let forked = lock.file.try_clone().unwrap();
        drop(lock);
        assert!(!FolderLock::is_held(&path).unwrap());
        drop(forked);
    }
}
