//! Login with the user's own `ssh`: a connection that he opened, or one of ours. Nothing is ever asked: what needs an answer is
//! refused with the command to type.

use std::{num::NonZeroUsize, path::PathBuf, process::Stdio, time::Duration};

use neva_schemas::SshTunnelConfig;
use openssh::{ControlPersist, KnownHosts, Session, SessionBuilder};
use tokio::{process::Command, time::timeout};

use super::openssh_words::{host_key_problem, word};
use crate::{error::ExecutorError, tunnel_error::TunnelError};

/// Where a connection that the user opens for us is found, beside the one of his own configuration.
const CONTROL_PATH: &str = "ControlPath=~/.ssh/neva-%C";

/// Seconds for which our own connection outlives its last command, so that a killed launcher leaves none behind.
const IDLE_S: NonZeroUsize = NonZeroUsize::MIN.saturating_add(599);

/// Time for questions to the local `ssh`.
pub(super) const LOCAL: Duration = Duration::from_secs(10);

/// Settings by which the user logs in.
#[derive(Debug)]
pub(super) struct Login {
    pub(super) config: SshTunnelConfig,
}

impl Login {
    /// Returns the name of the machine in handles and messages: `user@host:port`.
    pub(super) fn place(&self) -> String {
        let user = self.config.user.as_deref().map_or_else(String::new, |user| format!("{user}@"));
        let port = self.config.port.map_or_else(String::new, |port| format!(":{port}"));
        format!("{user}{}{port}", self.config.host)
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
    fn command(&self) -> String {
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

    /// Returns a connection: one that the user opened, or else a new one.
    pub(super) async fn connect(&self) -> Result<Session, ExecutorError> {
        for own in [&[][..], &["-o", CONTROL_PATH]] {
            if let Some(session) = self.users_connection(own).await {
                return Ok(session);
            }
        }
        let help = format!("log in once, by typing `{}`; then repeat your command", self.command());
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
}
