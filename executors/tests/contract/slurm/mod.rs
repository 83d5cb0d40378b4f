//! Fixture of the Slurm executor: jobs in a folder that the nodes share, behind a connection that gets lost.

mod lossy;

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use neva_executors::{
    Executor, SlurmExecutor,
    tunnel::{LocalTunnel, Tunnel, tunnel},
};
use neva_schemas::{SlurmExecutorConfig, SshTunnelConfig, TunnelConfig};

use self::lossy::LossyTunnel;
use crate::{
    cluster_files::output,
    fixture::{Fixture, Loss, Programs},
};

/// A cluster.
pub(crate) struct SlurmFixture {
    /// Folder of one test.
    dir: PathBuf,
    tunnel: Arc<LossyTunnel>,
    /// Login node of one's own cluster; the tests look at its files with `ssh`.
    host: Option<String>,
    programs: Programs,
}

#[track_caller]
fn variable(name: &str) -> String {
    let value = std::env::var_os(name).and_then(|value| value.into_string().ok());
    value.unwrap_or_else(|| panic!("{name} is not set: start this with `make e2e-slurm`"))
}

/// Returns the login node of one's own cluster.
fn own_host() -> Option<String> {
    std::env::var_os("NEVA_TEST_SLURM_HOST").and_then(|host| host.into_string().ok())
}

impl SlurmFixture {
    /// Slurm's programs run on this machine; on one's own cluster, on its login node.
    pub(crate) fn on_a_login_node() -> Self {
        match own_host() {
            Some(_) => Self::through_ssh(),
            None => {
                let _ = variable("SLURM_CONF");
                Self::new(Arc::new(LocalTunnel), None)
            }
        }
    }

    /// Slurm's programs run behind sshd.
    pub(crate) fn through_ssh() -> Self {
        let host = own_host();
        let config = match &host {
            Some(host) => SshTunnelConfig {
                host: host.clone(),
                ..SshTunnelConfig::default()
            },
            None => SshTunnelConfig {
                host: variable("SSHD_FIXTURE_HOST"),
                port: Some(variable("SSHD_FIXTURE_PORT").parse().unwrap()),
                user: Some(variable("SSHD_FIXTURE_USER")),
                identity: Some(variable("SSHD_FIXTURE_KEY").into()),
                known_hosts: Some(variable("SSHD_FIXTURE_KNOWN_HOSTS").into()),
                config_file: Some("/dev/null".into()),
                ..SshTunnelConfig::default()
            },
        };
        let home = std::env::var_os("HOME").map(PathBuf::from);
        Self::new(tunnel(&TunnelConfig::Ssh(config), home.as_deref()).unwrap(), host)
    }

    fn new(tunnel: Arc<dyn Tunnel>, host: Option<String>) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let parent = match &host {
            Some(_) => variable("NEVA_TEST_SLURM_FOLDER"),
            None => variable("NEVA_TEST_SLURM_DIR"),
        };
        let name = format!("contract-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let fixture = Self {
            dir: Path::new(&parent).join(name),
            tunnel: Arc::new(LossyTunnel::new(tunnel)),
            host,
            programs: Programs::default(),
        };
        fixture.shell("mkdir -p \"$1/jobs\"", &fixture.dir, "");
        fixture
    }

    /// Runs a shell text on the machine with the jobs' files, with a path as `$1`, and returns its output.
    fn shell(&self, text: &str, path: &Path, input: &str) -> String {
        let mut command = match &self.host {
            None => {
                let mut command = Command::new("sh");
                command.args(["-c", text, "sh"]).arg(path);
                command
            }
            Some(host) => {
                let mut command = Command::new("ssh");
                let path = path.display().to_string();
                // The folder of tests has no odd characters.
                command
                    .args(["-o", "BatchMode=yes", host, "--"])
                    .arg(format!("set -- {path}; {text}"));
                command
            }
        };
        output(&mut command, input)
    }
}

impl Drop for SlurmFixture {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.shell("rm -rf \"$1\"", &self.dir, "");
        }
    }
}

impl Fixture for SlurmFixture {
    fn executor(&self, ranks: &str) -> Arc<dyn Executor> {
        let ranks = format!("RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_STEP_NUM_TASKS\n{ranks}");
        let program = self.programs.program(&self.dir, &ranks, |program, text| {
            self.shell("cat >\"$1\" && chmod +x \"$1\"", program, text);
        });
        let config = SlurmExecutorConfig {
            gpus_per_node: Some(0),
            status_interval_s: 1,
            progress_interval_s: 0,
            ..SlurmExecutorConfig::default()
        };
        Arc::new(SlurmExecutor::new(config, self.tunnel.clone(), program))
    }

    fn jobs(&self) -> PathBuf {
        self.dir.join("jobs")
    }

    fn read(&self, path: &Path) -> String {
        self.shell("cat \"$1\" 2>/dev/null", path, "")
    }

    fn write(&self, path: &Path, text: &str) {
        self.shell("cat >\"$1\"", path, text);
    }

    fn lose(&self, losses: &[Loss]) -> bool {
        self.tunnel.lose(losses);
        true
    }

    fn outlives_launcher(&self) -> bool {
        true
    }
}
