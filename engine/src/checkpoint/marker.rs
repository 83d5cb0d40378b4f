//! Marker file of a checkpoint that is being written. Its writer locks it.

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest wait for another process's lock on the marker.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(20);

/// Creates the marker and locks it, which shows that its writer runs. If the file system has no locks, or another process
/// holds this one, the marker stays unlocked.
#[expect(clippy::disallowed_methods, reason = "polls with a deadline: there is no event")]
pub(super) fn lock_marker(path: &Path) -> io::Result<File> {
    let started = Instant::now();
    loop {
        let file = File::create(path)?;
        let locked = flock(&file, FlockOperation::NonBlockingLockExclusive);
        // A process that removes abandoned saves holds the lock briefly, and removes the file.
        let cleared = !is_at(&file, path);
        let retry = cleared || locked == Err(Errno::WOULDBLOCK);
        if !retry || started.elapsed() >= LOCK_TIMEOUT {
            return Ok(file);
        }
        std::thread::sleep(POLL);
    }
}

/// Returns true if `path` still names the opened file.
fn is_at(file: &File, path: &Path) -> bool {
    let id = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    file.metadata().map(id).ok() == std::fs::metadata(path).map(id).ok()
}

/// Returns true if there is a marker whose writer runs, or may run: the file system may have no locks.
pub(super) fn is_being_written(marker: &Path) -> bool {
    match File::open(marker) {
        // A shared lock is enough for the test, so that two tests at the same time do not conflict.
        Ok(file) => flock(&file, FlockOperation::NonBlockingLockShared).is_err(),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}
