//! The user's own `ssh`: it connects once, with all that his configuration says, and carries every command over that
//! connection. It never asks anything: what needs an answer is refused with the command to type.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use neva_schemas::SshTunnelConfig;
use openssh::Session;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::{Mutex, Semaphore},
    time::{sleep, timeout},
};

use super::{
    login::{LOCAL, Login},
    sftp::SftpTransport,
    transport::Transport,
};
use crate::{error::ExecutorError, executor::BoxFuture, tunnel::shell::RawOutput};

/// Commands that run at once over one connection: servers allow ten by default.
const PARALLEL: usize = 8;

/// Connection through the user's `ssh`.
pub(super) struct OpenSsh {
    login: Login,
    session: Mutex<Option<Arc<Session>>>,
    permits: Semaphore,
}

impl std::fmt::Debug for OpenSsh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenSsh").field("login", &self.login).finish_non_exhaustive()
    }
}

/// Fate of one try to run a command.
enum Try {
    Answered(RawOutput),
    /// The connection refused or was gone before the command was sent.
    NotStarted {
        is_gone: bool,
        words: String,
    },
}

impl OpenSsh {
    pub(super) fn new(config: SshTunnelConfig) -> Self {
        Self {
            login: Login { config },
            session: Mutex::new(None),
            permits: Semaphore::new(PARALLEL),
        }
    }

    async fn session(&self) -> Result<Arc<Session>, ExecutorError> {
        let mut current = self.session.lock().await;
        if let Some(session) = &*current {
            return Ok(session.clone());
        }
        let session = Arc::new(self.login.connect().await?);
        *current = Some(session.clone());
        Ok(session)
    }

    /// Forgets a connection that does not answer.
    async fn drop_if_dead(&self, session: &Arc<Session>) {
        let is_dead = !matches!(timeout(LOCAL, session.check()).await, Ok(Ok(())));
        let mut current = self.session.lock().await;
        if is_dead && current.as_ref().is_some_and(|current| Arc::ptr_eq(current, session)) {
            *current = None;
        }
    }

    async fn try_once(&self, session: &Session, line: &str, input: &[u8]) -> Result<Try, openssh::Error> {
        let mut command = session.raw_command(line);
        command
            .stdin(openssh::Stdio::piped())
            .stdout(openssh::Stdio::piped())
            .stderr(openssh::Stdio::piped());
        let mut child = command.spawn().await?;
        let (stdin, stdout, stderr) = (child.stdin().take(), child.stdout().take(), child.stderr().take());
        let mut raw = RawOutput::default();
        let write = async {
            let Some(mut stdin) = stdin else { return };
            // A command may exit without reading its input.
            let _ = stdin.write_all(input).await;
        };
        let read_out = async {
            if let Some(mut stdout) = stdout {
                let _ = stdout.read_to_end(&mut raw.stdout).await;
            }
        };
        let read_err = async {
            if let Some(mut stderr) = stderr {
                let _ = stderr.read_to_end(&mut raw.stderr).await;
            }
        };
        tokio::join!(write, read_out, read_err);
        raw.code = match child.wait().await {
            Ok(status) => status.code(),
            Err(openssh::Error::Remote(_)) => Some(127),
            Err(_) => Some(255),
        };
        let text = String::from_utf8_lossy(&raw.stderr).into_owned();
        let has = |words: &[&str]| raw.code == Some(255) && words.iter().any(|words| text.contains(words));
        // Words of the local `ssh`, which then had not sent the command.
        let is_refused = has(&["mux_client_request_session: session request failed"]);
        let is_gone = has(&[
            "Control socket connect",
            "mux_client_hello_exchange",
            "master hello exchange failed",
            // The host's name, where there is no connection to share.
            "resolve hostname none",
            "connect to host none",
        ]);
        if is_refused || is_gone {
            let words = text.lines().next().unwrap_or_default().trim().to_owned();
            return Ok(Try::NotStarted {
                is_gone: !is_refused,
                words,
            });
        }
        Ok(Try::Answered(raw))
    }
}

impl Transport for OpenSsh {
    fn place(&self) -> String {
        self.login.place()
    }

    fn exchange<'a>(&'a self, line: &'a str, input: &'a [u8], deadline: Instant) -> BoxFuture<'a, Result<RawOutput, ExecutorError>> {
        Box::pin(async move {
            let lost = |words: String| ExecutorError::Connection {
                place: self.place(),
                source: std::io::Error::other(words),
            };
            let _permit = self.permits.acquire().await.map_err(|error| lost(error.to_string()))?;
            let mut reconnects = 0;
            loop {
                let session = self.session().await?;
                match self.try_once(&session, line, input).await {
                    Ok(Try::Answered(raw)) => {
                        if raw.code == Some(255) {
                            self.drop_if_dead(&session).await;
                        }
                        return Ok(raw);
                    }
                    Ok(Try::NotStarted { is_gone: true, words }) => {
                        self.drop_if_dead(&session).await;
                        reconnects += 1;
                        if reconnects > 2 {
                            return Err(lost(words));
                        }
                    }
                    // The server allows fewer commands at once: a running one ends, or another launcher's does.
                    Ok(Try::NotStarted { is_gone: false, words }) => {
                        if Instant::now() + Duration::from_secs(1) > deadline {
                            return Err(lost(words));
                        }
                        sleep(Duration::from_millis(200)).await;
                    }
                    Err(error) => {
                        self.drop_if_dead(&session).await;
                        return Err(lost(error.to_string()));
                    }
                }
            }
        })
    }

    /// OpenSSH is for accounts with a shell.
    fn sftp(&self) -> Option<&dyn SftpTransport> {
        None
    }
}
