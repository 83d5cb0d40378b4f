//! Fixture of the Slurm executor: jobs in a folder that the nodes share, behind a connection that gets lost.

mod lossy;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use neva_executors::{Executor, SlurmExecutor, tunnel::LocalTunnel};
use neva_schemas::SlurmExecutorConfig;
use tempfile::TempDir;

use self::lossy::LossyTunnel;
use crate::fixture::{Fixture, Loss};

/// Variable with the settings of Slurm's programs: set by `make e2e-slurm` for its own cluster, or by the user.
const SLURM_CONF: &str = "SLURM_CONF";

/// A cluster whose programs run on this machine.
pub(crate) struct SlurmFixture {
    dir: TempDir,
    tunnel: Arc<LossyTunnel<LocalTunnel>>,
    /// Texts of the created rank programs.
    programs: Mutex<Vec<String>>,
}

impl SlurmFixture {
    pub(crate) fn here() -> Self {
        assert!(
            std::env::var_os(SLURM_CONF).is_some(),
            "{SLURM_CONF} is not set: start this with `make e2e-slurm`"
        );
        Self {
            dir: tempfile::tempdir().unwrap(),
            tunnel: Arc::new(LossyTunnel::new(LocalTunnel)),
            programs: Mutex::default(),
        }
    }
}

impl Fixture for SlurmFixture {
    fn executor(&self, ranks: &str) -> Arc<dyn Executor> {
        let mut programs = self.programs.lock().unwrap();
        let number = programs.iter().position(|known| known == ranks).unwrap_or_else(|| {
            programs.push(ranks.to_owned());
            programs.len() - 1
        });
        let program = self.dir.path().join(format!("rank-{number}"));
        if !program.exists() {
            let text =
                format!("#!/bin/sh\nRANK=$SLURM_PROCID WORLD_SIZE=$SLURM_STEP_NUM_TASKS\ncd \"$(dirname \"$3\")\" || exit 4\n{ranks}\n");
            fs::write(&program, text).unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let config = SlurmExecutorConfig {
            gpus_per_node: Some(0),
            status_interval_s: 1,
            progress_interval_s: 0,
            ..SlurmExecutorConfig::default()
        };
        Arc::new(SlurmExecutor::new(config, self.tunnel.clone(), program))
    }

    fn jobs(&self) -> PathBuf {
        let jobs = self.dir.path().join("jobs");
        fs::create_dir_all(&jobs).unwrap();
        jobs
    }

    fn read(&self, path: &Path) -> String {
        fs::read_to_string(path).unwrap_or_default()
    }

    fn write(&self, path: &Path, text: &str) {
        fs::write(path, text).unwrap();
    }

    fn lose(&self, losses: &[Loss]) -> bool {
        self.tunnel.lose(losses);
        true
    }

    fn outlives_launcher(&self) -> bool {
        true
    }

    fn poll_interval(&self) -> Duration {
        Duration::from_secs(3)
    }
}
