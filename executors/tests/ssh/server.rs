//! A real SSH server on this machine, with keys of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use neva_schemas::{SshProgram, SshTunnelConfig};
use tempfile::TempDir;

/// A running server, which ends with this value.
pub(crate) struct Server {
    pub(crate) dir: TempDir,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// Starts a server with options of `tests/slurm/sshd-up`.
    pub(crate) fn with(options: &[&str]) -> Self {
        let server = Self {
            dir: TempDir::with_prefix("neva-sshd-").unwrap(),
        };
        server.up(options);
        server
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Returns a file of the server's folder.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.state().join(name)
    }

    pub(crate) fn port(&self) -> u16 {
        fs::read_to_string(self.file("port")).unwrap().trim().parse().unwrap()
    }

    /// Starts the server, again with the same keys and port. The account's own start-up files are not read: they may do
    /// anything, and the tests kill them.
    pub(crate) fn up(&self, options: &[&str]) {
        let home = self.dir.path().join("home");
        fs::create_dir_all(&home).unwrap();
        let mut up = script("sshd-up");
        up.arg("--setenv")
            .arg(format!("HOME={}", home.display()))
            .args(options)
            .arg(self.state());
        let output = up.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Stops the server and all connections.
    pub(crate) fn down(&self) {
        assert!(script("sshd-down").arg(self.state()).status().unwrap().success());
    }

    /// Cuts all connections; the server goes on.
    pub(crate) fn cut(&self) {
        assert!(script("sshd-down").arg("--sessions").arg(self.state()).status().unwrap().success());
    }

    /// Returns the config of a tunnel to it.
    pub(crate) fn config(&self, program: SshProgram) -> SshTunnelConfig {
        let empty = self.dir.path().join("empty_config");
        fs::write(&empty, "").unwrap();
        SshTunnelConfig {
            host: "127.0.0.1".into(),
            user: Some("root".into()),
            port: Some(self.port()),
            identity: Some(self.file("id_ed25519")),
            known_hosts: Some(self.file("known_hosts")),
            config_file: Some(empty),
            job_dir: Some("/tmp".into()),
            connect_timeout_s: 20,
            program,
            ..SshTunnelConfig::default()
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = script("sshd-down").arg("--purge").arg(self.state()).status();
    }
}

fn script(name: &str) -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/slurm").join(name))
}
