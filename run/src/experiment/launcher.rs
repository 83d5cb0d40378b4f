//! Starts an experiment: its folder, then its event loop.

use std::{sync::Arc, time::Duration};

use neva_executors::Executor;
use neva_schemas::env;
use tokio::sync::watch;

use super::{
    error::ExperimentError,
    folder::{ExperimentFolder, LauncherLock},
    git, index,
    lower::Lowering,
    plugin::Plugin,
    record::{ExperimentRecord, write_json_soon},
    report::{ExperimentReport, TaskState},
    runner::{Listener, Runner},
    store::Store,
};
use crate::{environment, error::RunError, job, program, runtime};

/// Most experiments within each other.
const MAX_DEPTH: u32 = 4;

/// How long an experiment that is over waits for the versions of its programs.
const VERSIONS_DEADLINE: Duration = Duration::from_secs(2);

/// What a launch needs beside the record.
pub(super) struct Launcher {
    pub(super) store: Store,
    pub(super) through: Option<Arc<dyn Executor>>,
    pub(super) listener: Listener,
    pub(super) plugins: Vec<Arc<dyn Plugin>>,
}

/// How many experiments one that starts now is in, itself counted.
///
/// # Errors
/// Too many: it would be started by one of its own tasks, and so on.
pub(super) fn depth() -> Result<u32, RunError> {
    let above: u32 = environment::variable(env::NEVA_EXPERIMENT_DEPTH)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    let depth = above.saturating_add(1);
    if depth > MAX_DEPTH {
        return Err(ExperimentError::TooDeep { depth }.into());
    }
    Ok(depth)
}

/// Renders every task, so that one that cannot run is refused before anything is written.
pub(super) fn check(record: &ExperimentRecord, store: &Store, through: Option<&Arc<dyn Executor>>) -> Result<(), RunError> {
    let lowering = lowering(record, store, through)?;
    if record.has_finetunes() && through.is_none() {
        program::find_here()?;
    }
    for (name, task) in &record.experiment.tasks {
        lowering.render(record, name, task, None)?;
    }
    Ok(())
}

/// Lowers the tasks of an experiment that has no id yet.
pub(super) fn lowering(record: &ExperimentRecord, store: &Store, through: Option<&Arc<dyn Executor>>) -> Result<Lowering, RunError> {
    Ok(Lowering {
        folder: store.folder(&record.experiment.name, "ID"),
        depth: depth()?,
        through: through.cloned(),
    })
}

/// Makes the folder of an experiment that was checked, and writes down what it is.
pub(super) fn create(record: &mut ExperimentRecord, store: &Store) -> Result<(ExperimentFolder, LauncherLock), RunError> {
    let folder = store.create(&record.experiment.name, environment::now())?;
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
    index::note(store.home(), record, None);
    Ok((folder, lock))
}

impl Launcher {
    /// Runs the experiment in `folder` to its end; what an earlier launch finished is kept.
    ///
    /// # Errors
    /// A task did not end well, or what happened could not be written down.
    pub(super) fn run(self, folder: ExperimentFolder, lock: LauncherLock) -> Result<ExperimentReport, RunError> {
        let status = folder.status()?;
        if status.report.tasks.iter().all(|task| task.state == TaskState::Succeeded) && status.class.is_some() {
            return Err(ExperimentError::NothingLeft { id: folder.id }.into());
        }
        folder.forget_requests()?;
        let record = status.record;
        index::note(self.store.home(), &record, None);
        let events = folder.events()?;
        let lowering = Lowering {
            folder: folder.clone(),
            depth: depth()?,
            through: self.through,
        };
        let mut runner = Runner::new(lowering, record.clone(), events, self.listener, self.plugins);
        let report = runtime()?.block_on(async {
            let (requests, end) = watch::channel(0);
            job::forward_signals(requests)?;
            let versions = tokio::spawn(write_versions(folder.clone(), record.has_finetunes()));
            runner.resume(status.report.tasks).await;
            let report = runner.run(end).await;
            // A program that does not answer keeps nobody waiting.
            let _ = tokio::time::timeout(VERSIONS_DEADLINE, versions).await;
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

/// Asks the rank program what it is, beside the tasks: it loads libtorch to answer.
async fn write_versions(folder: ExperimentFolder, wanted: bool) {
    let Ok(program) = program::find_here() else { return };
    if wanted && let Ok(version) = program::version(&program).await {
        let path = folder.dir.join(VERSIONS_FILE);
        if let Err(error) = write_json_soon(&path, &version) {
            tracing::debug!(%error, "the versions are not written down");
        }
    }
}

/// File in an experiment's folder.
pub(super) const VERSIONS_FILE: &str = "versions.json";
