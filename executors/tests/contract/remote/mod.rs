//! Fixture of an executor whose files and processes are on another machine.

mod executor;
mod machine;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use neva_executors::Executor;

use self::{executor::RemoteExecutor, machine::Machine};
use crate::{
    fixture::{Fixture, Loss},
    local::LocalFixture,
};

/// A machine that launchers reach only through its interface.
pub(crate) struct RemoteFixture {
    /// Files on the machine.
    disk: LocalFixture,
    machine: Arc<Machine>,
}

impl RemoteFixture {
    pub(crate) fn new() -> Self {
        Self {
            disk: LocalFixture::new(),
            machine: Arc::new(Machine::start()),
        }
    }
}

impl Fixture for RemoteFixture {
    fn executor(&self, ranks: &str) -> Arc<dyn Executor> {
        Arc::new(RemoteExecutor {
            on_machine: self.disk.local(ranks),
            machine: Arc::clone(&self.machine),
        })
    }

    fn jobs(&self) -> PathBuf {
        self.disk.jobs()
    }

    fn read(&self, path: &Path) -> String {
        self.disk.read(path)
    }

    fn write(&self, path: &Path, text: &str) {
        self.disk.write(path, text);
    }

    fn lose(&self, losses: &[Loss]) -> bool {
        self.machine.lose(losses);
        true
    }

    fn outlives_launcher(&self) -> bool {
        true
    }
}
