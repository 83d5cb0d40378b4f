//! The tunnel to this machine: a login node, or a laptop.

use std::{
    fs, io,
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::{fs::PermissionsExt as _, process::ExitStatusExt as _},
    path::{Path, PathBuf},
    process::Stdio,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, Command},
    time::timeout,
};

use super::{CommandEnd, CommandOutput, Tunnel, TunnelCommand, TunnelFile, content, content::hash_file, part_name};
use crate::{error::ExecutorError, executor::BoxFuture, exit::signal_name, tunnel_error::TunnelError};

/// Runs commands on this machine and copies files on its disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LocalTunnel;

impl Tunnel for LocalTunnel {
    fn place(&self) -> String {
        "this machine".to_owned()
    }

    fn run<'a>(&'a self, command: &'a TunnelCommand) -> BoxFuture<'a, Result<CommandOutput, ExecutorError>> {
        Box::pin(async move {
            let mut child = start(command).map_err(|error| start_error(command, &error))?;
            let mut group = Group(child.id());
            let result = timeout(command.deadline, communicate(&mut child, &command.stdin)).await;
            if matches!(result, Ok(Ok(_))) {
                group.0 = None;
            }
            let failed = |source| ExecutorError::Connection {
                place: self.place(),
                source,
            };
            result.map_err(|_| failed(command.timed_out()))?.map_err(failed)
        })
    }

    fn write<'a>(&'a self, files: &'a [TunnelFile]) -> BoxFuture<'a, Result<(), ExecutorError>> {
        Box::pin(async move {
            let files = files.to_vec();
            blocking(move || files.iter().try_for_each(write_file)).await
        })
    }

    fn upload<'a>(&'a self, from: &'a Path, to: &'a Path) -> BoxFuture<'a, Result<(), ExecutorError>> {
        Box::pin(async move {
            let (from, to) = (from.to_owned(), to.to_owned());
            blocking(move || content::tree(&from)?.iter().try_for_each(|file| copy(&file.from, &file.place(&to)))).await
        })
    }

    fn read<'a>(&'a self, file: &'a Path, offset: u64, limit: u64) -> BoxFuture<'a, Result<Option<Vec<u8>>, ExecutorError>> {
        Box::pin(async move {
            let file = file.to_owned();
            blocking(move || read_file(&file, offset, limit)).await
        })
    }
}

/// Kills a command's processes when it is dropped, as when the deadline has passed, also those that it started.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0.and_then(|id| Pid::from_raw(id.cast_signed())) {
            // The only possible error is that no process is left.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

fn start(command: &TunnelCommand) -> io::Result<Child> {
    let (program, arguments) = command.argv.split_first().ok_or_else(|| io::Error::other("the command is empty"))?;
    Command::new(program)
        .args(arguments)
        .envs(&command.env)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

fn start_error(command: &TunnelCommand, error: &io::Error) -> ExecutorError {
    let program = command.argv.first().cloned().unwrap_or_default();
    let reason = match error.kind() {
        io::ErrorKind::NotFound => "it is not in PATH".to_owned(),
        _ => error.to_string(),
    };
    let place = LocalTunnel.place();
    TunnelError::Start { place, program, reason }.into()
}

/// Writes `stdin`, and reads both outputs until the command has ended.
async fn communicate(child: &mut Child, stdin: &[u8]) -> io::Result<CommandOutput> {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let (input, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        let Some(mut input) = input else { return };
        // A command may exit without reading its input.
        let _ = input.write_all(stdin).await;
    };
    let read_out = async {
        match stdout {
            Some(mut stdout) => stdout.read_to_end(&mut out).await,
            None => Ok(0),
        }
    };
    let read_err = async {
        match stderr {
            Some(mut stderr) => stderr.read_to_end(&mut err).await,
            None => Ok(0),
        }
    };
    let ((), out_read, err_read) = tokio::join!(write, read_out, read_err);
    out_read?;
    err_read?;
    let status = child.wait().await?;
    let end = match (status.code(), status.signal()) {
        (Some(code), _) => CommandEnd::Exit(code),
        (None, signal) => CommandEnd::Signal(signal_name(signal.unwrap_or_default()).trim_start_matches("SIG").to_owned()),
    };
    Ok(CommandOutput {
        end,
        stdout: out,
        stderr: err,
    })
}

/// Runs `action`, which waits for a disk, outside of the runtime's thread.
async fn blocking<T: Send + 'static>(action: impl FnOnce() -> Result<T, ExecutorError> + Send + 'static) -> Result<T, ExecutorError> {
    match tokio::task::spawn_blocking(action).await {
        Ok(result) => result,
        Err(error) => Err(ExecutorError::Connection {
            place: LocalTunnel.place(),
            source: error.into(),
        }),
    }
}

fn write_file(file: &TunnelFile) -> Result<(), ExecutorError> {
    let failed = |source| failed("write", &file.path, source);
    if fs::read(&file.path).is_ok_and(|bytes| bytes == file.bytes) {
        return fs::set_permissions(&file.path, fs::Permissions::from_mode(file.mode)).map_err(failed);
    }
    create_parent(&file.path)?;
    let part = part_name(&file.path);
    let write = || {
        let mut output = fs::File::create(&part)?;
        output.set_permissions(fs::Permissions::from_mode(file.mode))?;
        output.write_all(&file.bytes)?;
        fs::rename(&part, &file.path)
    };
    write().map_err(failed)
}

fn copy(from: &Path, to: &Path) -> Result<(), ExecutorError> {
    let same_length = || Some(fs::metadata(from).ok()?.len() == fs::metadata(to).ok()?.len());
    if same_length() == Some(true) && hash_file(to).ok() == Some(hash_file(from)?) {
        return Ok(());
    }
    create_parent(to)?;
    let part = part_name(to);
    // `copy` keeps the permissions.
    let copied = fs::copy(from, &part).and_then(|_| fs::rename(&part, to));
    copied.map_err(|source| failed("write", to, source))
}

fn create_parent(path: &Path) -> Result<(), ExecutorError> {
    let Some(parent) = path.parent() else { return Ok(()) };
    fs::create_dir_all(parent).map_err(|source| failed("create", parent, source))
}

fn read_file(path: &Path, offset: u64, limit: u64) -> Result<Option<Vec<u8>>, ExecutorError> {
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|mut file| {
        file.seek(SeekFrom::Start(offset))?;
        file.take(limit).read_to_end(&mut bytes)
    });
    match read {
        Ok(_) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(failed("read", path, source)),
    }
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> ExecutorError {
    ExecutorError::File {
        action,
        path: PathBuf::from(path),
        source,
    }
}
