//! Errors of tunnels.

use neva_schemas::{ExitClass, exit_class};

/// An error of a tunnel that a repetition does not mend. A lost connection is `ExecutorError::Connection` instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TunnelError {
    /// A command holds a NUL character, or its environment a name that no shell can set.
    #[error("a command for {place} cannot be sent: {reason}")]
    Command {
        /// The machine.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// A program did not start.
    #[error("cannot start {program} on {place}: {reason}")]
    Start {
        /// The machine.
        place: String,
        /// The program.
        program: String,
        /// Error of the system.
        reason: String,
    },
    /// The command before each program failed.
    #[error("the tunnel's `pre_command` failed on {place}: {reason}")]
    PreCommand {
        /// The machine.
        place: String,
        /// Its last words.
        reason: String,
    },
    /// The account has no shell that runs commands, or one without the usual programs.
    #[error("{place} does not run commands: {reason}")]
    NoShell {
        /// The machine.
        place: String,
        /// The server's words.
        reason: String,
    },
    /// The server refused the login.
    #[error("{place} refused the login: {reason}")]
    Login {
        /// The machine.
        place: String,
        /// The server's or the client's words.
        reason: String,
        /// What to type.
        help: String,
    },
    /// The server's key is unknown, or another one than is known.
    #[error("the host key of {place} is not trusted: {reason}")]
    HostKey {
        /// The machine.
        place: String,
        /// What is known and what the server has.
        reason: String,
        /// What to type.
        help: String,
    },
    /// The user's connection is required and does not exist.
    #[error("there is no open connection to {place}, and `require_existing_master` forbids a new one")]
    NoMaster {
        /// The machine.
        place: String,
        /// What to type.
        help: String,
    },
    /// The tunnel's settings do not work.
    #[error("the tunnel to {place} cannot be used: {reason}")]
    Settings {
        /// The machine.
        place: String,
        /// What is wrong.
        reason: String,
        /// What to type.
        help: String,
    },
    /// A file on the machine cannot be written or read.
    #[error("cannot {action} {path} on {place}: {reason}")]
    File {
        /// The machine.
        place: String,
        /// Failed action.
        action: &'static str,
        /// The file.
        path: String,
        /// The machine's words.
        reason: String,
    },
}

impl TunnelError {
    /// Returns the launcher's exit code for this error.
    pub fn exit_code(&self) -> ExitClass {
        match self {
            Self::Command { .. } | Self::Settings { .. } => exit_class::INPUT,
            Self::Start { .. }
            | Self::PreCommand { .. }
            | Self::NoShell { .. }
            | Self::Login { .. }
            | Self::HostKey { .. }
            | Self::NoMaster { .. }
            | Self::File { .. } => exit_class::CLUSTER,
        }
    }

    /// Returns a suggested fix, if there is one.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Login { help, .. } | Self::HostKey { help, .. } | Self::NoMaster { help, .. } | Self::Settings { help, .. } => {
                Some(help.clone())
            }
            Self::Start { .. } => Some("install it there, or add its folder to PATH with the tunnel's `pre_command`".to_owned()),
            Self::Command { .. } => None,
            Self::PreCommand { .. } => Some("try it in a shell there; it is a line for a POSIX shell".to_owned()),
            Self::NoShell { .. } => {
                Some("use an account that may run commands, or set the tunnel's `shell` to a POSIX shell there".to_owned())
            }
            Self::File { reason, .. } if reason.contains("space") || reason.contains("quota") => {
                Some("free disk space there, or name another folder with the tunnel's `job_dir`".to_owned())
            }
            Self::File { .. } => Some("name a folder there that you can write with the tunnel's `job_dir`".to_owned()),
        }
    }
}
