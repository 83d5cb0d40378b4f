//! The scripts that write, send and read files on the other machine, and their errors.

use std::{path::Path, time::Duration};

use super::{CommandEnd, CommandOutput, Tunnel, TunnelCommand};
use crate::{error::ExecutorError, tunnel_error::TunnelError};

/// Time for a chunk: 64 KiB/s.
const CHUNK_DEADLINE: Duration = Duration::from_secs(180);

/// Prints the SHA-256 hash of a file; nothing where no program for it is installed.
const HASH: &str = include_str!("scripts/hash.sh");

/// Reads lines `HASH MODE PATH`, and prints the numbers of those whose file differs.
pub(super) const CHECK: &str = include_str!("scripts/check.sh");

/// Arguments: file, temporary file, hash. Prints `same`, or the number of bytes in the temporary file.
pub(super) const STATE: &str = include_str!("scripts/state.sh");

/// Arguments: file, temporary file, hash, mode, offset, length of the file. Appends its input to the temporary file, and
/// completes the file with its last chunk. Prints `done`, `same` if the file has this hash, `wrong` for another hash, or the
/// number of bytes.
pub(super) const PUT: &str = include_str!("scripts/put.sh");

/// Arguments: file, number of the first byte from 1, number of bytes.
pub(super) const READ: &str = include_str!("scripts/read.sh");

/// Exit code of [`READ`] for a missing file.
pub(super) const MISSING: i32 = 44;

/// Runs one of the scripts.
pub(super) async fn script(tunnel: &dyn Tunnel, text: &str, arguments: &[String], stdin: Vec<u8>) -> Result<CommandOutput, ExecutorError> {
    let argv = ["sh".to_owned(), "-c".to_owned(), format!("{HASH}{text}"), "neva-run".to_owned()];
    let argv = argv.into_iter().chain(arguments.iter().cloned());
    tunnel.run(&TunnelCommand::new(argv).stdin(stdin).deadline(CHUNK_DEADLINE)).await
}

/// Returns the trimmed output of a script that succeeded.
pub(super) fn succeeded(tunnel: &dyn Tunnel, action: &'static str, path: &Path, output: CommandOutput) -> Result<String, ExecutorError> {
    if output.is_success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(file_error(tunnel, action, path, &output))
    }
}

/// Returns the error of a script that failed.
pub(super) fn file_error(tunnel: &dyn Tunnel, action: &'static str, path: &Path, output: &CommandOutput) -> ExecutorError {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let reason = match (stderr.lines().rfind(|line| !line.trim().is_empty()), &output.end) {
        (Some(line), _) => line.trim().to_owned(),
        (None, CommandEnd::Exit(code)) => format!("the command ended with exit code {code}"),
        (None, CommandEnd::Signal(signal)) => format!("the command was killed by SIG{signal}"),
    };
    // A shell's exit code for a program that is not there.
    if output.end == CommandEnd::Exit(127) {
        let place = tunnel.place();
        return TunnelError::NoShell { place, reason }.into();
    }
    TunnelError::File {
        place: tunnel.place(),
        action,
        path: path.display().to_string(),
        reason,
    }
    .into()
}

/// Returns the error of a file whose hash is another one there.
pub(super) fn changed(tunnel: &dyn Tunnel, path: &Path) -> ExecutorError {
    TunnelError::File {
        place: tunnel.place(),
        action: "write",
        path: path.display().to_string(),
        reason: "its content is another one there than here: the local file changed while it was sent, or the disk there is full"
            .to_owned(),
    }
    .into()
}

/// Returns a path as text for a script's line.
pub(super) fn path_text(path: &Path) -> Result<String, ExecutorError> {
    let text = path.to_str().filter(|text| !text.contains('\n'));
    text.map(str::to_owned)
        .ok_or_else(|| ExecutorError::NotUtf8 { path: path.to_owned() })
}
