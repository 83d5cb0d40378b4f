//! Commands of Git, and how their outputs are read.

use std::{
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use neva_schemas::GitArchivePackagerConfig;
use tokio::{process::Command, time::timeout};

use crate::packager_error::PackagerError;

/// Time for one command of Git; archives of large repositories take a while.
const DEADLINE: Duration = Duration::from_secs(600);

/// Runs Git in a folder, and returns its output.
pub(super) async fn git(config: &GitArchivePackagerConfig, folder: &Path, arguments: &[&str]) -> Result<Vec<u8>, PackagerError> {
    let failed = |reason: String| PackagerError::Git {
        command: arguments.first().copied().unwrap_or_default().to_owned(),
        folder: folder.to_owned(),
        reason,
    };
    if config.debug {
        tracing::info!("git -C {} {}", folder.display(), arguments.join(" "));
    }
    let mut command = Command::new("git");
    command
        // Names are names here, and not patterns.
        .args(["--literal-pathspecs", "-C"])
        .arg(folder)
        .args(arguments)
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = timeout(DEADLINE, command.output()).await;
    let output = output.map_err(|_| failed(format!("it did not end within {} s", DEADLINE.as_secs())))?;
    let output = output.map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let stderr = text(&output.stderr);
    Err(failed(stderr.lines().last().unwrap_or_default().to_owned()))
}

/// Tells a folder without a repository from other failures.
pub(super) fn no_repository(error: PackagerError, folder: &Path) -> PackagerError {
    match error {
        PackagerError::Git { reason, .. } if reason.contains("not a git repository") => {
            PackagerError::NoRepository { folder: folder.to_owned() }
        }
        error => error,
    }
}

/// Returns the trimmed text of an output.
pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

/// Returns the path that bytes of an output name.
pub(super) fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}

/// Returns the names of a list that NUL characters end.
pub(super) fn names_of(bytes: &[u8]) -> impl Iterator<Item = PathBuf> + '_ {
    bytes.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(path_of)
}
