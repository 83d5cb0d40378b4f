//! Creates a run's folder on this machine.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::error::ExecutorError;

/// Maximum number of runs of one name that start in the same second.
const MAX_SUFFIX: u32 = 1000;

/// Creates `first`, or if it exists the first free of `<first>-1`, `<first>-2` and so on, and returns its path.
///
/// # Errors
/// The folder cannot be created.
pub fn create_run_folder(first: &Path) -> Result<PathBuf, ExecutorError> {
    let failed = |path: &Path, source| ExecutorError::File {
        action: "create",
        path: path.to_owned(),
        source,
    };
    if let Some(parent) = first.parent() {
        fs::create_dir_all(parent).map_err(|source| failed(parent, source))?;
    }
    let mut folder = first.to_owned();
    for suffix in 0..MAX_SUFFIX {
        if suffix > 0 {
            let mut name = first.as_os_str().to_owned();
            name.push(format!("-{suffix}"));
            folder = name.into();
        }
        match fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(failed(&folder, source)),
        }
    }
    Err(failed(first, io::ErrorKind::AlreadyExists.into()))
}
