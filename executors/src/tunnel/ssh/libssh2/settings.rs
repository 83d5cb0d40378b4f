//! Whom the client connects to, and with what: the tunnel's config over the user's SSH config file.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use neva_schemas::SshTunnelConfig;

use crate::{
    tunnel::ssh::config_file::{self, HostEntry},
    tunnel_error::TunnelError,
};

/// Keys that OpenSSH tries when no file names others.
const DEFAULT_KEYS: &[&str] = &["id_ed25519", "id_ecdsa", "id_rsa"];

/// Settings of a client.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    /// Hosts to jump through, in order.
    pub(super) jumps: Vec<Endpoint>,
    /// The host.
    pub(super) target: Endpoint,
    /// Time to connect and log in.
    pub(super) connect_timeout: Duration,
    /// Time between two keepalive messages, if they are wanted.
    pub(super) keepalive: Option<Duration>,
    /// Refuse unknown hosts.
    pub(super) is_strict: bool,
}

/// A host, and how to log in.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    /// Name or address to connect to.
    pub(super) host: String,
    /// Port.
    pub(super) port: u16,
    /// User.
    pub(super) user: String,
    /// Name in the file of known hosts, if it is another one.
    pub(super) alias: Option<String>,
    /// Private keys, in the order in which they are tried.
    pub(super) keys: Vec<PathBuf>,
    /// True if the user named the keys, so that a missing one is reported.
    pub(super) keys_are_named: bool,
    /// Keys of the agent are tried too.
    pub(super) uses_agent: bool,
    /// Socket of the agent, if it is not the usual one.
    pub(super) agent: Option<PathBuf>,
    /// Files of known hosts; new ones are added to the first.
    pub(super) known_hosts: Vec<PathBuf>,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}:{}", self.user, self.host, self.port)
    }
}

/// What the tunnel's config says of one host.
#[derive(Debug, Clone, Copy)]
struct Named<'a> {
    host: &'a str,
    user: Option<&'a str>,
    port: Option<u16>,
}

/// Reads the entries of hosts.
struct Reader<'a> {
    config: &'a SshTunnelConfig,
    home: &'a Path,
    file: PathBuf,
}

impl Settings {
    pub(super) fn new(config: SshTunnelConfig, home: Option<&Path>) -> Result<Self, TunnelError> {
        let home = home.unwrap_or(Path::new("/"));
        let reader = Reader {
            config: &config,
            home,
            file: config.config_file.clone().unwrap_or_else(|| home.join(".ssh/config")),
        };
        let named = Named {
            host: &config.host,
            user: config.user.as_deref(),
            port: config.port,
        };
        let entry = reader.entry(config.host.as_str())?;
        let jumps = config.jump.clone().or_else(|| entry.jump.clone()).unwrap_or_default();
        let jump = |text: &String| {
            let named = parse_host(text);
            reader.endpoint(named, reader.entry(named.host)?, false)
        };
        Ok(Self {
            jumps: jumps.iter().map(jump).collect::<Result<_, _>>()?,
            target: reader.endpoint(named, entry, true)?,
            connect_timeout: Duration::from_secs(config.connect_timeout_s),
            keepalive: (config.keepalive_s > 0).then(|| Duration::from_secs(config.keepalive_s)),
            is_strict: config.strict_host_key_checking,
        })
    }
}

impl Reader<'_> {
    fn settings_error(&self, reason: String, help: String) -> TunnelError {
        TunnelError::Settings {
            place: self.config.host.clone(),
            reason,
            help,
        }
    }

    fn entry(&self, host: &str) -> Result<HostEntry, TunnelError> {
        if self.config.config_file.is_some() && !self.file.exists() {
            let reason = format!("there is no {}", self.file.display());
            return Err(self.settings_error(reason, "correct `config_file`".to_owned()));
        }
        let entry = config_file::read(&self.file, host, self.home)
            .map_err(|reason| self.settings_error(reason, "mend the SSH config file".to_owned()))?;
        if let Some(unsupported) = entry.unsupported.iter().find(|setting| setting.starts_with("`ProxyCommand`")) {
            let reason = format!("the built-in client does not run commands to connect: {unsupported}");
            return Err(self.settings_error(reason, "set `program: openssh`, or use `ProxyJump`".to_owned()));
        }
        for setting in &entry.unsupported {
            tracing::warn!("{setting} is skipped by the built-in client: set `program: openssh` if {host} needs it");
        }
        Ok(entry)
    }

    /// Returns the endpoint for a host. Only the target has the config's key.
    fn endpoint(&self, named: Named<'_>, entry: HostEntry, is_target: bool) -> Result<Endpoint, TunnelError> {
        let user = named.user.map(str::to_owned).or(entry.user).or_else(local_user);
        let user = user.ok_or_else(|| self.settings_error("no user is known".to_owned(), "set `user`".to_owned()))?;
        let ssh = self.home.join(".ssh");
        let identity = self.config.identity.clone().filter(|_| is_target).map(|file| self.expand(&file));
        let mut keys: Vec<_> = identity.into_iter().chain(entry.identity_files).collect();
        let keys_are_named = !keys.is_empty();
        if keys.is_empty() {
            keys = DEFAULT_KEYS.iter().map(|name| ssh.join(name)).collect();
        }
        let known_hosts = match (&self.config.known_hosts, entry.known_hosts) {
            (Some(file), _) => vec![self.expand(file)],
            (None, files) if files.is_empty() => vec![ssh.join("known_hosts"), ssh.join("known_hosts2"), "/etc/ssh/ssh_known_hosts".into()],
            (None, files) => files,
        };
        let agent = entry.identity_agent;
        Ok(Endpoint {
            host: entry.host_name.unwrap_or_else(|| named.host.to_owned()),
            port: named.port.or(entry.port).unwrap_or(22),
            user,
            alias: entry.host_key_alias,
            keys,
            keys_are_named,
            uses_agent: !(entry.identities_only && keys_are_named) && agent.as_deref() != Some("none"),
            agent: agent
                .filter(|agent| agent != "SSH_AUTH_SOCK")
                .map(|agent| self.expand(Path::new(&agent))),
            known_hosts,
        })
    }

    fn expand(&self, path: &Path) -> PathBuf {
        path.strip_prefix("~").map_or_else(|_| path.to_owned(), |rest| self.home.join(rest))
    }
}

/// Splits `user@host:port`.
fn parse_host(text: &str) -> Named<'_> {
    let (user, host) = text.rsplit_once('@').map_or((None, text), |(user, host)| (Some(user), host));
    let (host, port) = match host.rsplit_once(':') {
        // An IPv6 address has several colons and no brackets.
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port.parse().ok()),
        _ => (host, None),
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    Named { host, user, port }
}

/// Returns the name of this process's user.
fn local_user() -> Option<String> {
    let id = rustix::process::getuid().as_raw().to_string();
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let line = users.lines().find(|line| line.split(':').nth(2) == Some(id.as_str()));
    let known = line.and_then(|line| line.split(':').next()).map(str::to_owned);
    known.or_else(|| std::env::var_os("USER")?.into_string().ok())
}
