//! Values of `env_from`, sent to the script in the container through a named pipe. They are in no file, and neither in the
//! container's settings, which `docker inspect` shows, nor on a command line.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::Duration,
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, chown, mknodat},
    process::{Gid, Uid, geteuid},
};
use tokio::time::{Instant, sleep};

use super::{api::Runtime, inspect::ContainerState};
use crate::{container_error::ContainerError, error::ExecutorError, job_files::failed, submission::quoted};

/// The pipe in the job's folder.
pub(super) const PIPE_FILE: &str = "container.env";
/// Time for the container to open the pipe.
const TIMEOUT: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(10);

/// Creates the pipe, readable for `user`.
pub(super) fn create_pipe(dir: &Path, user: &str) -> Result<(), ExecutorError> {
    let path = dir.join(PIPE_FILE);
    let made = mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0);
    made.map_err(|error| failed("create", &path)(error.into()))?;
    let (user, group) = user.split_once(':').unwrap_or((user, user));
    // A user without root creates the pipe as the user of the container; other users' pipes cannot be made.
    let number = |text: &str| text.parse::<u32>().ok().filter(|number| *number != u32::MAX);
    if let (Some(user), Some(group), true) = (number(user), number(group), geteuid().is_root()) {
        let owned = chown(&path, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)));
        owned.map_err(|error| failed("create", &path)(error.into()))?;
    }
    Ok(())
}

/// Sends the values, as soon as the container `name` reads, unless it ends before.
pub(super) async fn send(dir: &Path, values: &BTreeMap<String, String>, runtime: &Runtime, name: &str) -> Result<(), ExecutorError> {
    let path = dir.join(PIPE_FILE);
    let deadline = Instant::now() + TIMEOUT;
    let mut ticks = 0_u32;
    let pipe = loop {
        match open(&path) {
            Ok(pipe) => break pipe,
            // Nobody reads yet.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => {}
            Err(error) => return Err(failed("write", &path)(error)),
        }
        ticks += 1;
        if Instant::now() >= deadline || (ticks.is_multiple_of(50) && has_ended(runtime, name).await?) {
            // The error of removing a file that is gone.
            let _ = fs::remove_file(&path);
            return Err(ContainerError::NoReader {
                seconds: TIMEOUT.as_secs(),
            }
            .into());
        }
        sleep(TICK).await;
    };
    let text = text(values);
    let written = tokio::task::spawn_blocking(move || write(pipe, &text)).await;
    written.unwrap_or_else(|error| Err(error.into())).map_err(failed("write", &path))
}

/// Returns true if a container does not run any more.
async fn has_ended(runtime: &Runtime, name: &str) -> Result<bool, ExecutorError> {
    let container = runtime.inspect(name).await?;
    Ok(container.is_none_or(|container| container.state == ContainerState::Ended))
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
}

/// Writes all bytes, although the pipe does not block.
fn write(mut pipe: File, text: &str) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(&pipe)?;
    rustix::fs::fcntl_setfl(&pipe, flags - OFlags::NONBLOCK)?;
    pipe.write_all(text.as_bytes())
}

/// Returns the lines that the shell reads.
fn text(values: &BTreeMap<String, String>) -> String {
    let lines = values.iter().map(|(name, value)| format!("export {name}={}\n", quoted(value)));
    lines.collect::<String>() + "complete=yes\n"
}
