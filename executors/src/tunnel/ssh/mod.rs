//! Tunnels over SSH. A transport connects and carries one command; everything else is the same for all transports.

mod config_file;
mod known_hosts;
mod libssh2;
mod login;
mod openssh;
mod openssh_words;
mod patterns;
mod sftp;
mod transport;

use std::{path::Path, sync::Arc, time::Instant};

use neva_schemas::{SshProgram, SshTunnelConfig};

use self::{libssh2::Libssh2, openssh::OpenSsh, transport::Transport};
use super::{
    CommandOutput, Tunnel, TunnelCommand, TunnelFile, remote_files,
    shell::{Answer, RemoteShell},
};
use crate::{error::ExecutorError, executor::BoxFuture, tunnel_error::TunnelError};

/// Runs commands and copies files on a machine over SSH.
#[derive(Debug, Clone)]
pub struct SshTunnel {
    transport: Arc<dyn Transport>,
    shell: RemoteShell,
}

impl SshTunnel {
    /// Creates a tunnel, which connects when it is first used. `home` is the user's home folder.
    ///
    /// # Errors
    /// The program that connects is not installed.
    pub fn new(config: &SshTunnelConfig, home: Option<&Path>) -> Result<Self, ExecutorError> {
        let is_installed = std::env::var_os("PATH")
            .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.is_absolute() && folder.join("ssh").is_file()));
        let transport: Arc<dyn Transport> = match config.program {
            SshProgram::Auto | SshProgram::OpenSsh if is_installed => Arc::new(OpenSsh::new(config.clone())),
            SshProgram::OpenSsh => {
                return Err(TunnelError::Settings {
                    place: config.host.clone(),
                    reason: "`program` is openssh, but `ssh` is not in PATH".to_owned(),
                    help: "install it, or set `program: ssh2` for the built-in client".to_owned(),
                }
                .into());
            }
            SshProgram::Auto | SshProgram::Ssh2 => Arc::new(Libssh2::new(config.clone(), home)?),
        };
        let shell = RemoteShell {
            shell: config.shell.clone(),
            pre_command: config.pre_command.clone(),
        };
        Ok(Self { transport, shell })
    }
}

impl Tunnel for SshTunnel {
    fn place(&self) -> String {
        self.transport.place()
    }

    fn run<'a>(&'a self, command: &'a TunnelCommand) -> BoxFuture<'a, Result<CommandOutput, ExecutorError>> {
        Box::pin(async move {
            let place = self.place();
            let parcel = self.shell.wrap(command).map_err(|reason| TunnelError::Command {
                place: place.clone(),
                reason,
            })?;
            let deadline = Instant::now() + command.deadline;
            let exchange = self.transport.exchange(&parcel.line, &parcel.input, deadline);
            let raw = tokio::time::timeout_at(deadline.into(), exchange).await;
            let raw = match raw {
                Ok(raw) => raw?,
                Err(_) => {
                    return Err(ExecutorError::Connection {
                        place,
                        source: command.timed_out(),
                    });
                }
            };
            let error = match parcel.read(raw) {
                Answer::Done(output) => return Ok(output),
                Answer::PreCommandFailed(reason) => TunnelError::PreCommand { place, reason },
                Answer::NoShell(reason) => TunnelError::NoShell { place, reason },
                Answer::Cut(reason) => return Err(cut(place, &reason)),
            };
            Err(error.into())
        })
    }

    fn write<'a>(&'a self, files: &'a [TunnelFile]) -> BoxFuture<'a, Result<(), ExecutorError>> {
        Box::pin(async move {
            match (remote_files::write(self, files).await, self.transport.sftp()) {
                (Err(error), Some(transport)) if has_no_shell(&error) => sftp::write(transport, files).await,
                (result, _) => result,
            }
        })
    }

    fn upload<'a>(&'a self, from: &'a Path, to: &'a Path) -> BoxFuture<'a, Result<(), ExecutorError>> {
        Box::pin(async move {
            match (remote_files::upload(self, from, to).await, self.transport.sftp()) {
                (Err(error), Some(transport)) if has_no_shell(&error) => sftp::upload(transport, from, to).await,
                (result, _) => result,
            }
        })
    }

    fn read<'a>(&'a self, file: &'a Path, offset: u64, limit: u64) -> BoxFuture<'a, Result<Option<Vec<u8>>, ExecutorError>> {
        Box::pin(async move {
            match (remote_files::read(self, file, offset, limit).await, self.transport.sftp()) {
                (Err(error), Some(transport)) if has_no_shell(&error) => sftp::read(transport, file, offset, limit).await,
                (result, _) => result,
            }
        })
    }
}

fn has_no_shell(error: &ExecutorError) -> bool {
    matches!(error, ExecutorError::Tunnel(TunnelError::NoShell { .. }))
}

/// Returns the error for a connection that was cut before the command's end was reported.
fn cut(place: String, reason: &str) -> ExecutorError {
    let reason = match reason {
        "" => "the connection was cut",
        reason => reason,
    };
    ExecutorError::Connection {
        place,
        source: std::io::Error::other(reason.to_owned()),
    }
}
