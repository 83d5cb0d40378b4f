//! A machine with a container runtime, and a folder for one test.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use neva_tests::{Ended, neva_run, run, variable};
use tempfile::TempDir;

/// Target of the Makefile that starts these tests.
pub(crate) const TARGET: &str = "e2e-container";

/// The machine as one test sees it.
pub(crate) struct Machine {
    pub(crate) dir: TempDir,
    socket: String,
    pub(crate) image: String,
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().expect("a temporary folder"),
            socket: variable("NEVA_TEST_DOCKER_SOCKET", TARGET),
            image: variable("NEVA_TEST_IMAGE", TARGET),
        }
    }

    /// Writes an executor file with the test's image, and further lines.
    pub(crate) fn executor(&self, more: &str) -> String {
        self.executor_of(&self.image, more)
    }

    /// Writes an executor file with another image.
    pub(crate) fn executor_of(&self, image: &str, more: &str) -> String {
        let file = self.dir.path().join("executor.yaml");
        let text = format!("_target_: run.DockerExecutor\ncontainer_image: {image}\nnetwork: host\n{more}\n");
        fs::write(&file, text).expect("the file can be written");
        file.display().to_string()
    }

    /// Returns a launcher's command, with its experiments in the test's folder.
    pub(crate) fn neva_run(&self, arguments: &[&str]) -> Command {
        let mut command = neva_run(arguments);
        command
            .env("DOCKER_HOST", format!("unix://{}", self.socket))
            .env("NEVA_RUN_HOME", self.dir.path().join("home"));
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        run(self.neva_run(arguments))
    }

    /// Returns the names of the containers of jobs in this test's folder.
    pub(crate) fn containers(&self) -> Vec<String> {
        let text = podman(&["ps", "--all", "--format", "{{.Names}} {{index .Labels \"neva-run.folder\"}}"]).stdout;
        let folder = self.dir.path().display().to_string();
        let own = text.lines().filter_map(|line| line.split_once(' '));
        own.filter(|(_, job)| job.starts_with(&folder))
            .map(|(name, _)| name.to_owned())
            .collect()
    }
}

impl Drop for Machine {
    /// Removes the containers of the test's jobs, unless it failed.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            for name in self.containers() {
                let _ = podman(&["rm", "--force", &name]);
            }
        }
    }
}

/// Runs Podman's command line.
pub(crate) fn podman(arguments: &[&str]) -> Ended {
    let mut command = Command::new("podman");
    command.args(arguments);
    run(command)
}

/// Returns the files below `dir`.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let below = entries.flat_map(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => files(&entry.path()),
        Ok(kind) if kind.is_file() => vec![entry.path()],
        _ => Vec::new(),
    });
    below.collect()
}
