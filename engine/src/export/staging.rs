//! The staging directory of an export: it gets the target's name only when it is complete.

use crate::checkpoint::{publish_folder, sync_folder};
use crate::error::{EngineError, Result};
use neva_schemas::Problem;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Files by which a folder is recognized as a model that may be replaced.
const MODEL_FILES: &[&str] = &["config.json", "adapter_config.json", "checkpoint.json"];

/// A directory that is removed again unless it is published.
#[derive(Debug)]
pub(super) struct Staging {
    folder: PathBuf,
    target: PathBuf,
    published: bool,
    /// Locked while this process writes. The system releases it when the process is killed.
    _lock: File,
}

impl Staging {
    /// Creates the directory beside `target`, and replaces the remains of a killed export. `sources` are the folders that are
    /// read.
    ///
    /// # Errors
    /// The target exists and may not be overwritten, another process writes it, or its folder cannot be written.
    pub(super) fn create<'a>(target: &Path, overwrite: bool, sources: impl IntoIterator<Item = &'a Path>) -> Result<Self> {
        let target = std::path::absolute(target).map_err(EngineError::io("create", target))?;
        check_target(&target, overwrite)?;
        sources.into_iter().try_for_each(|source| check_source(&target, source))?;
        let mut name = std::ffi::OsString::from(".");
        name.push(target.file_name().unwrap_or_default());
        name.push(".writing");
        let folder = target.with_file_name(name);
        if let Ok(remains) = File::open(&folder) {
            if flock(&remains, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK) {
                let message = format!("another process is writing {}", target.display());
                return Err(EngineError::Run(vec![
                    Problem::error("--output", message).help("wait for it, or name another folder"),
                ]));
            }
            std::fs::remove_dir_all(&folder).map_err(EngineError::io("remove", &folder))?;
        }
        std::fs::create_dir_all(&folder).map_err(|error| not_created(&target, error))?;
        let lock = File::open(&folder).map_err(EngineError::io("create", &folder))?;
        // A file system without locks only loses the check above.
        let _ = flock(&lock, FlockOperation::NonBlockingLockExclusive);
        Ok(Self {
            folder,
            target,
            published: false,
            _lock: lock,
        })
    }

    /// Returns the directory.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Renames the directory to the target. Returns the target.
    pub(super) fn publish(mut self) -> Result<PathBuf> {
        let (staging, target) = (&self.folder, &self.target);
        publish_folder(staging, target)?;
        self.published = true;
        sync_folder(target.parent().unwrap_or(target))?;
        Ok(target.clone())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.published {
            // Frees the disk; the first error is the one to report.
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// Returns the error of a target whose directory cannot be created.
fn not_created(target: &Path, error: std::io::Error) -> EngineError {
    let named = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => return EngineError::io("create", target)(error),
        _ => target.display(),
    };
    EngineError::Machine(format!(
        "cannot create {named}: {error}; name a folder that you may write to with --output"
    ))
}

/// Checks that the target is free, or a model that may be replaced.
fn check_target(target: &Path, overwrite: bool) -> Result<()> {
    match target.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(EngineError::io("create", target)(error)),
        Ok(_) => {}
    }
    let refuse = |message: String, help: &str| Err(EngineError::Run(vec![Problem::error("--output", message).help(help)]));
    if !overwrite {
        return refuse(
            format!("{} exists already", target.display()),
            "name a folder that does not exist, remove this one, or add --overwrite",
        );
    }
    let is_empty = || std::fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_none());
    if MODEL_FILES.iter().any(|name| target.join(name).is_file()) || is_empty() {
        return Ok(());
    }
    refuse(
        format!("{} is not the folder of a model: it is not replaced", target.display()),
        "name the folder of an earlier export, or one that does not exist",
    )
}

/// Checks that a folder that is read is not replaced.
fn check_source(target: &Path, source: &Path) -> Result<()> {
    let (Ok(whole), Ok(part)) = (target.canonicalize(), source.canonicalize()) else {
        return Ok(());
    };
    if !part.starts_with(&whole) {
        return Ok(());
    }
    let message = format!("{} is read: it is not replaced", source.display());
    Err(EngineError::Run(vec![
        Problem::error("--output", message).help("name another folder; the weights that are read must stay"),
    ]))
}
