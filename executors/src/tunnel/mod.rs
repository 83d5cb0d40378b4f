//! Tunnels: how commands and files reach the machine that submits jobs.
//!
//! A tunnel knows no batch system. An executor for a cluster builds everything else on these few operations, so that it
//! behaves the same on a login node and over SSH.

mod content;
mod local;
mod remote_files;
mod remote_script;
mod shell;
mod ssh;

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use neva_schemas::TunnelConfig;

pub(crate) use content::hash_file;
pub use local::LocalTunnel;
pub use ssh::SshTunnel;

use crate::{error::ExecutorError, executor::BoxFuture};

/// Creates the tunnel that `config` describes. It connects when it is first used. `home` is the user's home folder.
///
/// # Errors
/// The tunnel's program is not installed, or the SSH config file does not let it connect.
pub fn tunnel(config: &TunnelConfig, home: Option<&Path>) -> Result<Arc<dyn Tunnel>, ExecutorError> {
    Ok(match config {
        TunnelConfig::Local(_) => Arc::new(LocalTunnel),
        TunnelConfig::Ssh(ssh) => Arc::new(SshTunnel::new(ssh, home)?),
    })
}

/// A connection to the machine that submits jobs. Implementations reconnect by themselves and hold no state of a job.
///
/// Every operation has a deadline. Errors for which [`ExecutorError::is_connection_lost`] holds say that the request may
/// or may not have taken effect; the caller looks before it repeats a request that must not take effect twice.
pub trait Tunnel: fmt::Debug + Send + Sync {
    /// Returns the place for messages: `this machine`, `user@host:22`.
    fn place(&self) -> String;

    /// Runs a program and waits for its end. Both output streams are read at once, so neither can block it.
    ///
    /// # Errors
    /// The machine cannot be reached, or the command did not end in time. A program that fails is not an error: see
    /// [`CommandOutput::end`].
    fn run<'a>(&'a self, command: &'a TunnelCommand) -> BoxFuture<'a, Result<CommandOutput, ExecutorError>>;

    /// Writes files, each to a temporary name that is then renamed; creates missing folders. A file whose content is
    /// already there is not sent again.
    ///
    /// # Errors
    /// The machine cannot be reached, or a file cannot be written.
    fn write<'a>(&'a self, files: &'a [TunnelFile]) -> BoxFuture<'a, Result<(), ExecutorError>>;

    /// Copies the local file or folder `from` to `to` if a file with the same content is not there already.
    ///
    /// # Errors
    /// As [`Self::write`], or the local file cannot be read.
    fn upload<'a>(&'a self, from: &'a Path, to: &'a Path) -> BoxFuture<'a, Result<(), ExecutorError>>;

    /// Returns at most `limit` bytes of a file from byte `offset` on; `None` if the file does not exist.
    ///
    /// # Errors
    /// The machine cannot be reached, or the file cannot be read.
    fn read<'a>(&'a self, file: &'a Path, offset: u64, limit: u64) -> BoxFuture<'a, Result<Option<Vec<u8>>, ExecutorError>>;
}

/// A command for [`Tunnel::run`].
#[derive(Clone, PartialEq, Eq)]
pub struct TunnelCommand {
    /// Program and arguments. No shell reads them.
    pub argv: Vec<String>,
    /// Additional environment, which may hold secrets: it is passed so that neither a command line nor a file shows it.
    pub env: BTreeMap<String, String>,
    /// Standard input.
    pub stdin: Vec<u8>,
    /// Time that the command has, from connecting to its end.
    pub deadline: Duration,
}

impl TunnelCommand {
    /// Creates a command without input that has 60 s.
    pub fn new(argv: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            env: BTreeMap::new(),
            stdin: Vec::new(),
            deadline: Duration::from_secs(60),
        }
    }

    /// Sets the time that the command has.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sets the standard input.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Returns the error of a command that did not end in time.
    pub(crate) fn timed_out(&self) -> io::Error {
        let program = self.argv.first().map_or("the command", String::as_str);
        let reason = format!("`{program}` did not end within {} s", self.deadline.as_secs());
        io::Error::new(io::ErrorKind::TimedOut, reason)
    }
}

impl fmt::Debug for TunnelCommand {
    /// Shows the names of the variables only: values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunnelCommand")
            .field("argv", &self.argv)
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .field("stdin", &self.stdin.len())
            .field("deadline", &self.deadline)
            .finish()
    }
}

/// End and output of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandOutput {
    /// How it ended.
    pub end: CommandEnd,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

/// End of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandEnd {
    /// It exited with this code.
    Exit(i32),
    /// It was killed by this signal, such as `KILL`. SSH reports an exit code of 0 beside it, which means nothing.
    Signal(String),
}

impl CommandOutput {
    /// Returns true if the command exited with 0.
    pub fn is_success(&self) -> bool {
        self.end == CommandEnd::Exit(0)
    }
}

/// A file for [`Tunnel::write`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelFile {
    /// Absolute path on the machine.
    pub path: PathBuf,
    /// Its content.
    pub bytes: Vec<u8>,
    /// Its permissions, such as `0o644`.
    pub mode: u32,
}

/// Returns the temporary name of a file that is being written.
fn part_name(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}-{}.part", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    name.into()
}
