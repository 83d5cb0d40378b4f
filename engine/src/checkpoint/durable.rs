//! Files and folders that survive a power failure once a function has returned.

use crate::error::{EngineError, Result};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

/// Writes a file and waits until it is on disk.
///
/// # Errors
/// The disk is full, or the folder cannot be written.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(EngineError::io("write", path))
}

/// Renames the complete folder `staging` to `target`. A folder of that name is replaced atomically: a whole one exists at every
/// moment.
///
/// # Errors
/// A folder cannot be renamed or removed.
pub(crate) fn publish_folder(staging: &Path, target: &Path) -> Result<()> {
    if target.is_dir() {
        match renameat_with(CWD, staging, CWD, target, RenameFlags::EXCHANGE) {
            Ok(()) => std::fs::remove_dir_all(staging).map_err(EngineError::io("remove", staging))?,
            // Some network file systems cannot. There the name is free for a moment.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                std::fs::remove_dir_all(target).map_err(EngineError::io("replace", target))?;
                std::fs::rename(staging, target).map_err(EngineError::io("write", target))?;
            }
            Err(error) => return Err(EngineError::io("replace", target)(error.into())),
        }
    } else {
        std::fs::rename(staging, target).map_err(EngineError::io("write", target))?;
    }
    Ok(())
}

/// Waits until the entries of a folder are on disk, as the name that a file was given.
///
/// # Errors
/// The folder cannot be read.
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(EngineError::io("write", folder))
}
