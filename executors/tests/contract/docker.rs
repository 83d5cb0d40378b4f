//! Fixture of the container executor: jobs in a temporary folder, which their containers mount.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use neva_executors::{DockerExecutor, Executor};
use neva_schemas::DockerExecutorConfig;
use tempfile::TempDir;

use crate::fixture::{DEADLINE, Fixture};

pub(crate) struct DockerFixture {
    dir: TempDir,
    socket: String,
    image: String,
    /// Texts of the created rank programs.
    programs: Mutex<Vec<String>>,
}

#[track_caller]
fn variable(name: &str) -> String {
    let value = std::env::var_os(name).and_then(|value| value.into_string().ok());
    value.unwrap_or_else(|| panic!("{name} is not set: start this with `make e2e-container`"))
}

impl DockerFixture {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            socket: variable("NEVA_TEST_DOCKER_SOCKET"),
            image: variable("NEVA_TEST_IMAGE"),
            programs: Mutex::default(),
        }
    }
}

impl Drop for DockerFixture {
    /// Removes the containers of the fixture's jobs.
    fn drop(&mut self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let executor = DockerExecutor::new(DockerExecutorConfig::default(), &self.socket, "0:0");
        let folder = self.dir.path().to_string_lossy().into_owned();
        runtime.block_on(async {
            // A test that failed leaves its containers for a look at them.
            if !std::thread::panicking() {
                executor.runtime().remove_below(&folder).await.unwrap();
            }
        });
    }
}

impl Fixture for DockerFixture {
    fn executor(&self, ranks: &str) -> Arc<dyn Executor> {
        let mut programs = self.programs.lock().unwrap();
        let known = programs.iter().position(|known| known == ranks);
        let program = self.dir.path().join(format!("rank-{}", known.unwrap_or(programs.len())));
        if known.is_none() {
            programs.push(ranks.to_owned());
            // Its arguments are `train --plan RUN/plan.json`.
            fs::write(&program, format!("#!/bin/sh\ncd \"$(dirname \"$3\")\" || exit 4\n{ranks}\n")).unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let config = DockerExecutorConfig {
            container_image: self.image.clone(),
            network: Some("host".into()),
            volumes: vec![self.dir.path().to_string_lossy().into_owned()],
            rank_program: Some(program.to_string_lossy().into_owned()),
            settle_s: 1,
            grace_s: DEADLINE.as_secs(),
            ..DockerExecutorConfig::default()
        };
        let user = format!("{}:{}", rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        Arc::new(DockerExecutor::new(config, &self.socket, user))
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

    fn outlives_launcher(&self) -> bool {
        true
    }

    fn poll_interval(&self) -> Duration {
        Duration::from_millis(1500)
    }
}
