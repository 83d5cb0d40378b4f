//! Fixture of the local executor.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use neva_executors::{Executor, LocalExecutor};
use tempfile::TempDir;

use crate::{
    executable::write_executable,
    fixture::{DEADLINE, Fixture, Programs},
};

/// Jobs in a temporary folder.
pub(crate) struct LocalFixture {
    dir: TempDir,
    programs: Programs,
}

impl LocalFixture {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            programs: Programs::default(),
        }
    }

    /// Returns an executor whose rank program runs `ranks` in the job's folder.
    pub(crate) fn local(&self, ranks: &str) -> LocalExecutor {
        LocalExecutor {
            settle: Duration::from_millis(200),
            grace: DEADLINE,
            ..LocalExecutor::new(self.programs.program(self.dir.path(), ranks, write_executable))
        }
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
