//! Options for starting an experiment.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};

use neva_executors::Executor;
use neva_schemas as schemas;

use super::{
    event::Event, journal::Listener, launcher::Launcher, plugin::Plugin, prepare::prepare, record::ExperimentRecord, runner::Output,
    store::Store,
};
use crate::{error::RunError, launch};

/// Options for starting an experiment.
#[derive(Default)]
pub struct ExperimentOptions {
    store: Option<Store>,
    executor: schemas::ExecutorConfig,
    through: Option<Arc<dyn Executor>>,
    working_directory: Option<PathBuf>,
    listener: Option<Listener>,
    output: Option<Output>,
    command: Option<PathBuf>,
    no_preflight: bool,
}

impl ExperimentOptions {
    /// Stores the experiment in `store` instead of the user's store.
    #[must_use]
    pub fn store(mut self, store: Store) -> Self {
        self.store = Some(store);
        self
    }

    /// Sets the default executor of tasks.
    #[must_use]
    pub fn executor(mut self, executor: schemas::ExecutorConfig) -> Self {
        self.executor = executor;
        self
    }

    /// Runs every task through `executor`, whatever executor it names. The named one still provides environment and
    /// retries.
    #[must_use]
    pub fn through(mut self, executor: Arc<dyn Executor>) -> Self {
        self.through = Some(executor);
        self
    }

    /// Sets the folder (absolute) in which scripts start and to which paths are relative. The default is the working
    /// directory.
    #[must_use]
    pub fn working_directory(mut self, folder: impl Into<PathBuf>) -> Self {
        self.working_directory = Some(folder.into());
        self
    }

    /// Enables or disables the check of the files that fine-tunes name, if their ranks start on this machine. Files of
    /// a task with dependencies are checked when it starts, all others before any task does. On by default.
    #[must_use]
    pub fn preflight(mut self, wanted: bool) -> Self {
        self.no_preflight = !wanted;
        self
    }

    /// Calls `listener` for each change, after it was written.
    #[must_use]
    pub fn on_event(mut self, listener: impl FnMut(&Event) + Send + 'static) -> Self {
        self.listener = Some(Box::new(listener));
        self
    }

    /// Calls `sink` with the output of tasks: the task's name, and bytes (of rank 0 for a fine-tune). Without it, output
    /// is in the logs only.
    #[must_use]
    pub fn on_output(mut self, sink: impl FnMut(&str, &[u8]) + Send + 'static) -> Self {
        self.output = Some(Arc::new(Mutex::new(sink)));
        self
    }

    /// Passes `program`, the command line, to scripts as `NEVA_RUN`.
    #[must_use]
    pub(crate) fn command(mut self, program: Option<PathBuf>) -> Self {
        self.command = program;
        self
    }

    /// Returns a launcher without plugins.
    pub(super) fn launcher_without_plugins(self) -> Result<Launcher, RunError> {
        Ok(Launcher {
            store: self.store.map_or_else(Store::for_user, Ok)?,
            through: self.through,
            listener: self.listener.unwrap_or_else(|| Box::new(|_| {})),
            output: self.output,
            plugins: Vec::new(),
            command: self.command,
        })
    }

    /// Prepares the record of an experiment, and returns it with a launcher.
    pub(super) fn launcher(
        mut self,
        spec: schemas::ExperimentConfig,
        plugins: Vec<Arc<dyn Plugin>>,
    ) -> Result<(ExperimentRecord, Launcher), RunError> {
        let working_directory = self.working_directory.take().map_or_else(launch::current_directory, Ok)?;
        let mut record = prepare(spec, std::mem::take(&mut self.executor), working_directory, &plugins)?;
        record.no_preflight = self.no_preflight;
        let launcher = Launcher {
            plugins,
            ..self.launcher_without_plugins()?
        };
        Ok((record, launcher))
    }
}
