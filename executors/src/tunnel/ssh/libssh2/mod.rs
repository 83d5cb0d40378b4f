//! The built-in client, over libssh2: keys, agent, jump hosts, known hosts. It needs no `ssh` program.
//!
//! A connection carries one command at a time, and several connections are kept. libssh2 blocks, so it runs on threads of
//! its own, and every call has a deadline.

mod connect;
mod connection;
mod exchange;
mod files;
mod hop;
mod host_key;
mod login;
mod settings;

use std::{
    io,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use neva_schemas::SshTunnelConfig;
use tokio::sync::Semaphore;

use self::{
    connection::{ConnectError, Connection},
    settings::{Endpoint, Settings},
};
use super::{
    sftp::{SftpRequest, SftpTransport},
    transport::Transport,
};
use crate::{error::ExecutorError, executor::BoxFuture, tunnel::shell::RawOutput, tunnel_error::TunnelError};

/// Connections at once: servers refuse too many of one user.
const PARALLEL: usize = 4;

/// Tries of a file transfer that was cut.
const TRIES: u32 = 4;

/// Client over libssh2.
#[derive(Debug)]
pub(super) struct Libssh2 {
    shared: Arc<Shared>,
    permits: Semaphore,
}

#[derive(Debug)]
struct Shared {
    settings: Settings,
    /// Connections that are not in use.
    idle: Mutex<Vec<Connection>>,
}

impl Libssh2 {
    /// Creates a client for a host. `home` is the user's home folder, with the SSH config file, keys and known hosts.
    ///
    /// # Errors
    /// The SSH config file cannot be read, or no user is known.
    pub(super) fn new(config: SshTunnelConfig, home: Option<&Path>) -> Result<Self, TunnelError> {
        let shared = Shared {
            settings: Settings::new(config, home)?,
            idle: Mutex::new(Vec::new()),
        };
        Ok(Self {
            shared: Arc::new(shared),
            permits: Semaphore::new(PARALLEL),
        })
    }

    /// Runs `action` on a thread that may block. It can look whether its result is still wanted.
    async fn with_connection<T: Send + 'static>(
        &self,
        action: impl FnOnce(&Shared, &AtomicBool) -> Result<T, ExecutorError> + Send + 'static,
    ) -> Result<T, ExecutorError> {
        let lost = |source| ExecutorError::Connection {
            place: self.place(),
            source,
        };
        let _permit = self.permits.acquire().await.map_err(|error| lost(io::Error::other(error)))?;
        let shared = self.shared.clone();
        let wanted = Wanted(Arc::new(AtomicBool::new(true)));
        let is_wanted = wanted.0.clone();
        let result = tokio::task::spawn_blocking(move || action(&shared, &is_wanted)).await;
        result.map_err(|error| lost(error.into()))?
    }
}

/// Says to a thread, when it is dropped, that nobody waits any more: a program that ends waits for its threads.
struct Wanted(Arc<AtomicBool>);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Shared {
    fn endpoint(&self) -> &Endpoint {
        &self.settings.target
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        // A list is valid after a panic of another thread.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lost(&self, source: io::Error) -> ExecutorError {
        ExecutorError::Connection {
            place: self.endpoint().to_string(),
            source,
        }
    }

    fn connect(&self, deadline: Instant) -> Result<Connection, ExecutorError> {
        connect::open(&self.settings, deadline).map_err(|error| match error {
            ConnectError::Lost { place, source } => ExecutorError::Connection { place, source },
            ConnectError::Refused(error) => error.into(),
        })
    }

    /// Runs a command. A connection that turns out to be closed is replaced: the command was not sent then.
    fn exchange(&self, line: &str, input: &[u8], deadline: Instant, is_wanted: &AtomicBool) -> Result<RawOutput, ExecutorError> {
        loop {
            let kept = self.idle().pop();
            let is_fresh = kept.is_none();
            let connection = kept.map_or_else(|| self.connect(deadline), Ok)?;
            let channel = match exchange::start(&connection.session, line, deadline) {
                Ok(channel) => channel,
                Err(error) if is_fresh => return Err(self.lost(error)),
                Err(_) => continue,
            };
            let keepalive = self.settings.keepalive;
            let limits = exchange::Limits {
                deadline,
                keepalive,
                is_wanted,
            };
            let result = exchange::communicate(&connection, channel, input, &limits);
            return match result {
                Ok((raw, is_whole)) => {
                    if is_whole {
                        self.idle().push(connection);
                    }
                    Ok(raw)
                }
                Err(error) => Err(self.lost(error)),
            };
        }
    }

    fn transfer(&self, request: &SftpRequest, deadline: Instant) -> Result<Option<Vec<u8>>, ExecutorError> {
        let mut tries = 0;
        loop {
            let kept = self.idle().pop();
            let connection = kept.map_or_else(|| self.connect(deadline), Ok)?;
            match files::perform(&connection.session, request, deadline) {
                Ok(answer) => {
                    self.idle().push(connection);
                    return Ok(answer);
                }
                Err(files::TransferError::File { action, path, reason }) => {
                    self.idle().push(connection);
                    return Err(TunnelError::File {
                        place: self.endpoint().to_string(),
                        action,
                        path,
                        reason,
                    }
                    .into());
                }
                Err(files::TransferError::Lost(source)) => {
                    tries += 1;
                    if tries >= TRIES || Instant::now() >= deadline {
                        return Err(self.lost(source));
                    }
                }
            }
        }
    }
}

impl Transport for Libssh2 {
    fn place(&self) -> String {
        self.shared.endpoint().to_string()
    }

    fn exchange<'a>(&'a self, line: &'a str, input: &'a [u8], deadline: Instant) -> BoxFuture<'a, Result<RawOutput, ExecutorError>> {
        let (line, input) = (line.to_owned(), input.to_vec());
        // Whoever waits gives up at the deadline, and says so.
        let deadline = deadline + Duration::from_secs(1);
        Box::pin(self.with_connection(move |shared, is_wanted| shared.exchange(&line, &input, deadline, is_wanted)))
    }

    fn sftp(&self) -> Option<&dyn SftpTransport> {
        Some(self)
    }
}

impl SftpTransport for Libssh2 {
    fn perform(&self, request: SftpRequest, deadline: Duration) -> BoxFuture<'_, Result<Option<Vec<u8>>, ExecutorError>> {
        let deadline = Instant::now() + deadline;
        Box::pin(self.with_connection(move |shared, _| shared.transfer(&request, deadline)))
    }
}
