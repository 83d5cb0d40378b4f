//! Lock of a folder that is in use.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    path::Path,
    time::{Duration, Instant},
};

/// Time to wait for a lock that is held briefly: a query holds it for microseconds, and a holder that has just reported
/// its end is about to release it.
const TIMEOUT: Duration = Duration::from_millis(500);
const TICK: Duration = Duration::from_millis(1);

/// A lock, held until this is dropped. The system releases it if its holder dies.
#[derive(Debug)]
pub struct FolderLock {
    file: File,
}

impl FolderLock {
    /// Acquires the lock at `path`. Returns `None` if it stays held for half a second; blocks that long.
    ///
    /// # Errors
    /// The file cannot be created or locked.
    pub fn take(path: &Path) -> io::Result<Option<Self>> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let end = Instant::now() + TIMEOUT;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(Self { file })),
                Err(TryLockError::WouldBlock) if Instant::now() < end => std::thread::park_timeout(TICK),
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }

    /// Returns true if the lock at `path` is held.
    ///
    /// # Errors
    /// The file does not exist (it was never locked), or cannot be read or locked.
    pub fn is_held(path: &Path) -> io::Result<bool> {
        // Read permission is enough to query. A shared lock, so that two concurrent queries do not take each other for
        // the holder.
        let file = File::open(path)?;
        match file.try_lock_shared() {
            Ok(()) => {
                drop(Self { file });
                Ok(false)
            }
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

impl Drop for FolderLock {
    /// Unlocks explicitly, because closing the file is not enough: a process that another thread is about to start has the
    /// descriptor, too, from its fork to its exec, and would hold the lock that long.
    fn drop(&mut self) {
        // The only errors are those of a file that is not open.
        let _ = self.file.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_is_visible_to_others() {
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
    fn release_works_although_a_fork_has_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let lock = FolderLock::take(&path).unwrap().unwrap();
        let forked = lock.file.try_clone().unwrap();
        drop(lock);
        assert!(!FolderLock::is_held(&path).unwrap());
        drop(forked);
    }
}
