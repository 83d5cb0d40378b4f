//! Starts an experiment: its folder, then its event loop.

use std::{path::PathBuf, sync::Arc, time::Duration};

use neva_executors::Executor;
use neva_schemas::env;
use tokio::sync::watch;

use super::{
    error::ExperimentError,
    folder::{ExperimentFolder, LauncherLock},
    git, index,
    journal::{Journal, Listener},
    lower::Lowering,
    plugin::Plugin,
    prepare::data_hashes,
    programs::Programs,
    record::ExperimentRecord,
    report::{ExperimentReport, TaskState},
    runner::{Output, Runner},
    store::Store,
};
use crate::{environment, error::RunError, job, program, runtime};

/// Most experiments within each other.
const MAX_DEPTH: u32 = 4;

/// How long an experiment that is over waits for the rank program to say what it is.
const PROGRAMS_DEADLINE: Duration = Duration::from_secs(30);

/// What a launch needs beside the record.
pub(super) struct Launcher {
    pub(super) store: Store,
    pub(super) through: Option<Arc<dyn Executor>>,
    pub(super) listener: Listener,
    pub(super) output: Option<Output>,
    pub(super) plugins: Vec<Arc<dyn Plugin>>,
    /// The command line's program, for scripts to call.
    pub(super) command: Option<PathBuf>,
}

/// How many experiments one that starts now is in, itself counted.
///
/// # Errors
/// Too many: it would be started by one of its own tasks, and so on.
fn depth() -> Result<u32, RunError> {
    let above: u32 = environment::variable(env::NEVA_EXPERIMENT_DEPTH)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    let depth = above.saturating_add(1);
    if depth > MAX_DEPTH {
        return Err(ExperimentError::TooDeep { depth }.into());
    }
    Ok(depth)
}

impl Launcher {
    /// Renders every task, so that one that cannot run is refused before anything is written.
    pub(super) fn check(&self, record: &ExperimentRecord) -> Result<(), RunError> {
        let lowering = self.planned(record)?;
        if record.has_finetunes() && self.through.is_none() {
            program::find_here()?;
        }
        for (name, task) in &record.experiment.tasks {
            lowering.render(record, name, task, None)?;
        }
        Ok(())
    }

    /// Lowers the tasks of an experiment that has no id yet.
    pub(super) fn planned(&self, record: &ExperimentRecord) -> Result<Lowering, RunError> {
        self.lowering(self.store.folder(&record.experiment.name, "ID"))
    }

    fn lowering(&self, folder: ExperimentFolder) -> Result<Lowering, RunError> {
        Ok(Lowering {
            folder,
            depth: depth()?,
            through: self.through.clone(),
            command: self.command.clone(),
        })
    }

    /// Makes the folder of an experiment that was checked, and writes down what it is.
    pub(super) fn create(&self, record: &mut ExperimentRecord) -> Result<(ExperimentFolder, LauncherLock), RunError> {
        record.data = data_hashes(record);
        let folder = self.store.create(&record.experiment.name, environment::now())?;
        record.id.clone_from(&folder.id);
        let written = folder.lock().and_then(|lock| {
            let git = runtime()?.block_on(git::state(&record.working_directory));
            git::write(&folder.dir, &git)?;
            record.write(&folder.dir)?;
            Ok(lock)
        });
        // Without a record it is no experiment, and would only be in the way.
        if written.is_err() {
            let _ = std::fs::remove_dir_all(&folder.dir);
        }
        let lock = written?;
        index::note(self.store.home(), record, None);
        Ok((folder, lock))
    }

    /// Runs the experiment in `folder` to its end; what an earlier launch finished is kept.
    ///
    /// # Errors
    /// A task did not end well, or what happened could not be written down.
    pub(super) fn run(self, folder: ExperimentFolder, lock: LauncherLock) -> Result<ExperimentReport, RunError> {
        let status = folder.status()?;
        if status.report.tasks.iter().all(|task| task.state == TaskState::Succeeded) && status.class.is_some() {
            return Err(ExperimentError::NothingLeft { id: folder.id }.into());
        }
        let record = status.record;
        index::note(self.store.home(), &record, None);
        let events = folder.events()?;
        let lowering = self.lowering(folder.clone())?;
        let journal = Journal::new(events, self.listener);
        let runner = Runner::new(lowering, record.clone(), journal, self.plugins, lock.requests_from);
        let mut runner = runner.output(self.output);
        let report = runtime()?.block_on(async {
            let (requests, end) = watch::channel(0);
            job::forward_signals(requests)?;
            // Beside the tasks: the rank program loads libtorch to answer.
            let programs = tokio::spawn(keep_programs(folder, record.has_finetunes()));
            runner.resume(status.report.tasks).await;
            let report = runner.run(end).await;
            // A program that does not answer keeps nobody waiting.
            let _ = tokio::time::timeout(PROGRAMS_DEADLINE, programs).await;
            report
        })?;
        let class = report.class();
        index::note(self.store.home(), &record, Some(class));
        drop(lock);
        if class == 0 {
            Ok(report)
        } else {
            Err(ExperimentError::Failed(Box::new(report)).into())
        }
    }
}

async fn keep_programs(folder: ExperimentFolder, trains: bool) {
    if let Err(error) = Programs::now(trains).await.write(&folder.dir) {
        tracing::debug!(%error, "the programs are not written down");
    }
}
