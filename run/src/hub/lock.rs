//! Lock of a blob, so that one process writes it at a time. `huggingface_hub` locks the same file.

use std::{
    fs::{File, OpenOptions, TryLockError},
    path::Path,
    time::{Duration, Instant},
};

use super::error::HubError;

/// Timeout of a holder of the lock that writes nothing.
const IDLE: Duration = Duration::from_secs(180);
const TICK: Duration = Duration::from_millis(100);

/// Takes the lock at `path`. Waits for its holder as long as the holder's file `watched` grows.
pub(super) fn take(path: &Path, watched: &Path) -> Result<File, HubError> {
    let failed = |source| HubError::io("lock", path, source);
    let file = OpenOptions::new().create(true).append(true).open(path).map_err(failed)?;
    let size = || std::fs::metadata(watched).map(|data| data.len()).ok();
    let (mut seen, mut since) = (size(), Instant::now());
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
            Err(TryLockError::WouldBlock) => {}
        }
        let now = size();
        if now != seen {
            (seen, since) = (now, Instant::now());
        } else if since.elapsed() > IDLE {
            return Err(HubError::Locked {
                path: path.to_owned(),
                waited_s: IDLE.as_secs(),
            });
        }
        std::thread::park_timeout(TICK);
    }
}
