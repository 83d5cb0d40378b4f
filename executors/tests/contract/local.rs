//! Fixture of the local executor.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use neva_executors::{Executor, LocalExecutor};
use tempfile::TempDir;

use crate::fixture::{DEADLINE, Fixture};

/// Jobs in a temporary folder.
pub(crate) struct LocalFixture {
    dir: TempDir,
    /// Texts of the created rank programs.
    programs: Mutex<Vec<String>>,
}

impl LocalFixture {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            programs: Mutex::default(),
        }
    }

    /// Returns an executor whose rank program runs `ranks` in the job's folder.
    pub(crate) fn local(&self, ranks: &str) -> LocalExecutor {
        let mut programs = self.programs.lock().unwrap();
        // The same text gives the same program, for every launcher.
        let number = programs.iter().position(|known| known == ranks).unwrap_or_else(|| {
            programs.push(ranks.to_owned());
            programs.len() - 1
        });
        let program = self.dir.path().join(format!("rank-{number}"));
        if program.exists() {
            return with_long_timeouts(program);
        }
        // Its arguments are `train --plan RUN/plan.json`.
        fs::write(&program, format!("#!/bin/sh\ncd \"$(dirname \"$3\")\" || exit 4\n{ranks}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        with_long_timeouts(program)
    }
}

fn with_long_timeouts(program: PathBuf) -> LocalExecutor {
    LocalExecutor {
        settle: Duration::from_millis(200),
        grace: DEADLINE,
        ..LocalExecutor::new(program)
    }
}

impl Fixture for LocalFixture {
    fn executor(&self, ranks: &str) -> Arc<dyn Executor> {
        Arc::new(self.local(ranks))
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
        false
    }
}
