//! Fixture of the container executor: jobs in a temporary folder, which their containers mount.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use neva_executors::{DockerExecutor, Executor};
use neva_schemas::DockerExecutorConfig;
use tempfile::TempDir;

use crate::{
    executable::write_executable,
    fixture::{DEADLINE, Fixture, Programs},
};

pub(crate) struct DockerFixture {
    dir: TempDir,
    socket: String,
    image: String,
    programs: Programs,
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
            programs: Programs::default(),
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
        let program = self.programs.program(self.dir.path(), ranks, write_executable);
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
}
