//! Configs of tunnels: how commands and files reach the machine that submits jobs.

use crate::validate::{Problem, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Config of a tunnel, chosen by `_target_`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename = "Tunnel")]
#[expect(clippy::large_enum_variant, reason = "a run has one tunnel")]
pub enum TunnelConfig {
    /// This machine submits jobs.
    #[serde(rename = "run.LocalTunnel")]
    Local(LocalTunnelConfig),
    /// A machine that is reached over SSH.
    #[serde(rename = "run.SSHTunnel")]
    Ssh(SshTunnelConfig),
}

impl Default for TunnelConfig {
    fn default() -> Self {
        Self::Local(LocalTunnelConfig::default())
    }
}

/// This machine submits jobs, as on a login node: NeMo-Run's `LocalTunnel`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename = "LocalTunnel", deny_unknown_fields, default)]
pub struct LocalTunnelConfig {
    /// Folder of runs that name none, on a file system that the nodes share.
    pub job_dir: Option<PathBuf>,
}

/// A machine that is reached over SSH: NeMo-Run's `SSHTunnel`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename = "SSHTunnel", deny_unknown_fields, default)]
pub struct SshTunnelConfig {
    /// Host: a name, an address, or an entry of the SSH config file.
    pub host: String,
    /// User; `null`: that of the SSH config file, else the local user.
    pub user: Option<String>,
    /// Port; `null`: that of the SSH config file, else 22.
    pub port: Option<u16>,
    /// File of the private key; `null`: those of the SSH config file and the agent.
    pub identity: Option<PathBuf>,
    /// Login shell on the host that runs commands, as `/bin/bash`; `null`: the user's.
    pub shell: Option<String>,
    /// Shell command in front of every command on the host, as `source /etc/profile`.
    pub pre_command: Option<String>,
    /// Folder of jobs on the host, absolute, on a file system that the nodes share.
    pub job_dir: Option<PathBuf>,
    /// Program that connects.
    pub program: SshProgram,
    /// SSH config file; `null`: `~/.ssh/config`.
    pub config_file: Option<PathBuf>,
    /// File of known hosts; `null`: that of the SSH config file, else `~/.ssh/known_hosts`.
    pub known_hosts: Option<PathBuf>,
    /// Refuses hosts that are not in the file of known hosts. `false` accepts and records unknown hosts; a changed key is
    /// always refused.
    pub strict_host_key_checking: bool,
    /// Never logs in, but uses the connection that the user opened; only for `openssh`.
    pub require_existing_master: bool,
    /// Seconds between two keepalive messages; 0: none.
    #[schemars(range(max = 86400))]
    pub keepalive_s: u64,
    /// Seconds to connect and log in.
    #[schemars(range(min = 1, max = 3600))]
    pub connect_timeout_s: u64,
    /// Hosts to jump through, in order: `user@host:port`; `null`: those of the SSH config file.
    pub jump: Option<Vec<String>>,
}

/// Program that connects over SSH.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SshProgram {
    /// `openssh` if `ssh` is installed, else `ssh2`.
    #[default]
    Auto,
    /// The user's own `ssh`, with all that it supports: MFA, ProxyJump, Kerberos, hardware keys.
    OpenSsh,
    /// The built-in client: keys, agent, jump hosts.
    Ssh2,
}

impl Default for SshTunnelConfig {
    fn default() -> Self {
        Self {
            host: String::new(),
            user: None,
            port: None,
            identity: None,
            shell: None,
            pre_command: None,
            job_dir: None,
            program: SshProgram::default(),
            config_file: None,
            known_hosts: None,
            strict_host_key_checking: true,
            require_existing_master: false,
            keepalive_s: 15,
            connect_timeout_s: 30,
            jump: None,
        }
    }
}

impl TunnelConfig {
    /// Returns the folder of runs that name none.
    pub fn job_dir(&self) -> Option<&PathBuf> {
        match self {
            Self::Local(local) => local.job_dir.as_ref(),
            Self::Ssh(ssh) => ssh.job_dir.as_ref(),
        }
    }
}

impl Validate for TunnelConfig {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        if let Some(dir) = self.job_dir()
            && (!dir.is_absolute() || dir.to_str().is_none_or(|dir| dir.contains(char::is_control)))
        {
            let message = format!("{} is not an absolute path", dir.display());
            problems
                .push(Problem::error(format!("{path}.job_dir"), message).help("name a folder that the nodes share, as `/scratch/me/runs`"));
        }
        if let Self::Ssh(ssh) = self {
            ssh.validate(path, problems);
        }
    }
}

impl Validate for SshTunnelConfig {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        let field = |name: &str| format!("{path}.{name}");
        if self.host.is_empty() {
            problems.push(
                Problem::error(field("host"), "the host is missing").help("set `host` to the login node, or to an entry of ~/.ssh/config"),
            );
        }
        if self.job_dir.is_none() {
            problems.push(
                Problem::error(
                    field("job_dir"),
                    "the folder of jobs is missing: runs are on the host, not on this machine",
                )
                .help("set `job_dir` to a folder that the nodes share, as `/scratch/me/runs`"),
            );
        }
        let words = [
            ("host", Some(&self.host)),
            ("user", self.user.as_ref()),
            ("shell", self.shell.as_ref()),
        ];
        for (name, word) in words {
            if word.is_some_and(|word| word.starts_with('-') || word.contains(|c: char| c.is_control() || c.is_whitespace())) {
                problems.push(Problem::error(
                    field(name),
                    format!("`{name}` must not begin with `-` or contain blanks"),
                ));
            }
        }
        if self.host.contains('@') {
            let (user, host) = self.host.split_once('@').unwrap_or_default();
            let help = format!("write `user: {user}` and `host: {host}`");
            problems.push(Problem::error(field("host"), "the user is a field of its own").help(help));
        }
        if self.port == Some(0) {
            problems.push(Problem::error(field("port"), "`port` is 0"));
        }
        if self.require_existing_master && self.program == SshProgram::Ssh2 {
            let message = "only OpenSSH has connections that the user opened";
            problems.push(Problem::error(field("require_existing_master"), message).help("set `program: openssh`"));
        }
        for (name, seconds, min, max) in [
            ("keepalive_s", self.keepalive_s, 0, 86_400),
            ("connect_timeout_s", self.connect_timeout_s, 1, 3_600),
        ] {
            if !(min..=max).contains(&seconds) {
                let message = format!("`{name}` is {seconds}, it must be from {min} to {max}");
                problems.push(Problem::error(field(name), message));
            }
        }
        for (index, host) in self.jump.iter().flatten().enumerate() {
            if host.is_empty() || host.starts_with('-') || host.contains(|c: char| c.is_control() || c.is_whitespace() || c == ',') {
                let message = format!("{host:?} is not a host: write `user@host:port`");
                problems.push(Problem::error(format!("{}[{index}]", field("jump")), message));
            }
        }
    }
}
