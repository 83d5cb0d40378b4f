//! The user's own `ssh`: it connects once, with all that his configuration says, and carries every command over that
//! connection. It never asks anything: what needs an answer is refused with the command to type.

use std::{
    num::NonZeroUsize,
    path::PathBuf,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use neva_schemas::SshTunnelConfig;
use openssh::{ControlPersist, KnownHosts, Session, SessionBuilder};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
    sync::{Mutex, Semaphore},
    time::{sleep, timeout},
};

use super::{
    openssh_words::{host_key_problem, word},
    sftp::SftpTransport,
    transport::Transport,
};
use crate::{error::ExecutorError, executor::BoxFuture, tunnel::shell::RawOutput, tunnel_error::TunnelError};

/// Commands that run at once over one connection: servers allow ten by default.
const PARALLEL: usize = 8;

/// Where a connection that the user opens for us is found, beside the one of his own configuration.
const CONTROL_PATH: &str = "ControlPath=~/.ssh/neva-%C";

/// Seconds for which our own connection outlives its last command, so that a killed launcher leaves none behind.
const IDLE_S: NonZeroUsize = NonZeroUsize::MIN.saturating_add(599);

/// Time for questions to the local `ssh`.
const LOCAL: Duration = Duration::from_secs(10);

/// Connection through the user's `ssh`.
pub(super) struct OpenSsh {
    config: SshTunnelConfig,
    session: Mutex<Option<Arc<Session>>>,
    permits: Semaphore,
}

impl std::fmt::Debug for OpenSsh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenSsh").field("config", &self.config).finish_non_exhaustive()
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
            config,
            session: Mutex::new(None),
            permits: Semaphore::new(PARALLEL),
        }
    }

    /// Returns the options that select host and user, as they are typed.
    fn options(&self) -> Vec<String> {
        let mut options = Vec::new();
        let mut add = |option: &str, value: Option<String>| options.extend(value.into_iter().flat_map(|value| [option.to_owned(), value]));
        add("-F", self.config.config_file.as_deref().map(|file| file.display().to_string()));
        add("-p", self.config.port.map(|port| port.to_string()));
        add("-l", self.config.user.clone());
        add("-i", self.config.identity.as_deref().map(|file| file.display().to_string()));
        add(
            "-J",
            self.config.jump.as_ref().filter(|jump| !jump.is_empty()).map(|jump| jump.join(",")),
        );
        let known_hosts = self.config.known_hosts.as_deref();
        add("-o", known_hosts.map(|file| format!("UserKnownHostsFile={}", file.display())));
        options
    }

    /// Returns the command by which the user logs in once for all later commands.
    fn login_command(&self) -> String {
        let options = self.options();
        let words = [
            "ssh",
            "-fN",
            "-o",
            "ControlMaster=yes",
            "-o",
            CONTROL_PATH,
            "-o",
            "ControlPersist=12h",
        ];
        let words = words
            .into_iter()
            .chain(options.iter().map(String::as_str))
            .chain([self.config.host.as_str()]);
        words.map(word).collect::<Vec<_>>().join(" ")
    }

    async fn session(&self) -> Result<Arc<Session>, ExecutorError> {
        let mut current = self.session.lock().await;
        if let Some(session) = &*current {
            return Ok(session.clone());
        }
        let session = Arc::new(self.connect().await?);
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

    async fn connect(&self) -> Result<Session, ExecutorError> {
        for own in [&[][..], &["-o", CONTROL_PATH]] {
            if let Some(session) = self.users_connection(own).await {
                return Ok(session);
            }
        }
        let help = format!("log in once, by typing `{}`; then repeat your command", self.login_command());
        if self.config.require_existing_master {
            return Err(TunnelError::NoMaster { place: self.place(), help }.into());
        }
        let mut builder = SessionBuilder::default();
        builder
            .known_hosts_check(match self.config.strict_host_key_checking {
                true => KnownHosts::Strict,
                false => KnownHosts::Add,
            })
            .connect_timeout(Duration::from_secs(self.config.connect_timeout_s))
            .control_persist(ControlPersist::IdleFor(IDLE_S))
            .control_directory(std::env::temp_dir());
        if self.config.keepalive_s > 0 {
            builder.server_alive_interval(Duration::from_secs(self.config.keepalive_s));
        }
        if let Some(user) = &self.config.user {
            builder.user(user.clone());
        }
        if let Some(port) = self.config.port {
            builder.port(port);
        }
        if let Some(identity) = &self.config.identity {
            builder.keyfile(identity);
        }
        if let Some(file) = &self.config.config_file {
            builder.config_file(file);
        }
        if let Some(file) = &self.config.known_hosts {
            builder.user_known_hosts_file(file);
        }
        if let Some(jump) = &self.config.jump {
            builder.jump_hosts(jump);
        }
        match builder.connect(&self.config.host).await {
            Ok(session) => Ok(session),
            Err(error) => Err(self.connect_error(&error, help)),
        }
    }

    /// Returns a connection that the user opened, with `own` options beside those of his configuration.
    async fn users_connection(&self, own: &[&str]) -> Option<Session> {
        let options = self.options();
        let mut command = Command::new("ssh");
        command.args(own).args(&options).arg("-G").arg(&self.config.host);
        let output = timeout(LOCAL, command.stdin(Stdio::null()).kill_on_drop(true).output())
            .await
            .ok()?
            .ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let path = text.lines().find_map(|line| line.strip_prefix("controlpath "))?;
        let path = PathBuf::from(path).into_boxed_path();
        if !path.exists() {
            return None;
        }
        let session = Session::resume(path, None);
        let is_alive = timeout(LOCAL, session.check()).await.is_ok_and(|checked| checked.is_ok());
        is_alive.then_some(session)
    }

    fn connect_error(&self, error: &openssh::Error, help: String) -> ExecutorError {
        let place = self.place();
        let source = std::error::Error::source(error);
        let text = source.map_or_else(|| error.to_string(), ToString::to_string);
        let last = || {
            let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
            lines.next_back().unwrap_or(&text).to_owned()
        };
        if text.contains("Host key verification failed") || text.contains("REMOTE HOST IDENTIFICATION HAS CHANGED") {
            let (reason, help) = host_key_problem(&text, &self.config.host);
            return TunnelError::HostKey { place, reason, help }.into();
        }
        if text.contains("Permission denied") || text.contains("Too many authentication failures") {
            return TunnelError::Login {
                place,
                reason: last(),
                help,
            }
            .into();
        }
        if let openssh::Error::Ssh(error) = error {
            let (reason, help) = (format!("`ssh` does not start: {error}"), "set `program: ssh2`".to_owned());
            return TunnelError::Settings { place, reason, help }.into();
        }
        if text.contains("Bad configuration option") || text.contains("terminating, ") {
            let (reason, help) = (text.clone(), "mend the SSH config file".to_owned());
            return TunnelError::Settings { place, reason, help }.into();
        }
        ExecutorError::Connection {
            place,
            source: std::io::Error::other(last()),
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
        let user = self.config.user.as_deref().map_or_else(String::new, |user| format!("{user}@"));
        let port = self.config.port.map_or_else(String::new, |port| format!(":{port}"));
        format!("{user}{}{port}", self.config.host)
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
