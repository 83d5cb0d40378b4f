//! Launcher of an experiment: creates its folder, then runs its event loop.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

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
    task_graph::TaskGraph,
    task_sets::TaskSets,
};
use crate::{block_on, environment, error::RunError, job, preflight::Preflight, program, runtime};

/// Maximum nesting depth of experiments.
const MAX_DEPTH: u32 = 4;

/// Time that a finished experiment waits for the version of the rank program.
const PROGRAMS_TIMEOUT: Duration = Duration::from_secs(30);

/// Everything that a launch needs besides the record.
pub(super) struct Launcher {
    pub(super) store: Store,
    pub(super) through: Option<Arc<dyn Executor>>,
    pub(super) listener: Listener,
    pub(super) output: Option<Output>,
    pub(super) plugins: Vec<Arc<dyn Plugin>>,
    /// The `neva-run` program that scripts can call.
    pub(super) command: Option<PathBuf>,
}

/// Returns the nesting depth of an experiment that starts now, from 1.
///
/// # Errors
/// The depth exceeds the limit, as when an experiment starts itself from one of its tasks.
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
    /// Renders every task, so that a task that cannot run is refused before anything is written.
    pub(super) fn check(&self, record: &ExperimentRecord) -> Result<(), RunError> {
        let lowering = self.planned(record)?;
        let graph = TaskGraph::new(&record.experiment);
        let mut preflight = Preflight::new(record.working_directory.clone());
        let mut jobs = Vec::new();
        for (index, (name, task)) in record.experiment.tasks.iter().enumerate() {
            jobs.push(lowering.render(record, name, task, None)?);
            // No task creates a model of the hub.
            lowering.fetch(record, task)?;
            // Files that a parent may create are checked when the task starts.
            if !graph.has_parents(index) {
                lowering.preflight(&mut preflight, record, name, task)?;
            }
        }
        for set in TaskSets::checked(&record.experiment, &record.executor)?.iter() {
            let own: Vec<_> = set.tasks.iter().map(|task| &jobs[*task]).collect();
            if own.iter().all(|job| job.executor.joins_tasks()) {
                lowering.render_set(record, set, &own)?;
            }
        }
        if record.needs_rank_program() && self.through.is_none() {
            program::find_here()?;
        }
        Ok(())
    }

    /// Returns the lowering for an experiment that has no id yet.
    pub(super) fn planned(&self, record: &ExperimentRecord) -> Result<Lowering, RunError> {
        self.lowering(self.store.folder(&record.experiment.name, "ID"))
    }

    fn lowering(&self, folder: ExperimentFolder) -> Result<Lowering, RunError> {
        Ok(Lowering {
            folder,
            depth: depth()?,
            through: self.through.clone(),
            command: self.command.clone(),
            executors: Mutex::default(),
        })
    }

    /// Creates the folder of a checked experiment and writes its record.
    pub(super) fn create(&self, record: &mut ExperimentRecord) -> Result<(ExperimentFolder, LauncherLock), RunError> {
        // git takes longer than the rest.
        let directory = record.working_directory.clone();
        let (git, data) = std::thread::scope(|scope| {
            let git = scope.spawn(|| Ok::<_, RunError>(runtime()?.block_on(git::state(&directory))));
            let data = data_hashes(record);
            (git.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), data)
        });
        let git = git?;
        record.data = data;
        let folder = self.store.create(&record.experiment.name, environment::now())?;
        record.id.clone_from(&folder.id);
        let written = folder.lock().and_then(|lock| {
            git::write(&folder.dir, &git)?;
            record.write(&folder.dir)?;
            Ok(lock)
        });
        // A folder without a record is no experiment.
        if written.is_err() {
            let _ = std::fs::remove_dir_all(&folder.dir);
        }
        let lock = written?;
        index::note(self.store.home(), record, None);
        Ok((folder, lock))
    }

    /// Runs the experiment in `folder` to its end. Keeps tasks that an earlier launch completed.
    ///
    /// # Errors
    /// A task did not succeed, or the events cannot be written.
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
        let (requests, stop) = watch::channel(job::StopRequests::default());
        let runner = Runner::new(lowering, record.clone(), journal, self.plugins, lock.requests_from, stop);
        let mut runner = runner.output(self.output);
        let report = block_on(async {
            job::forward_signals(requests)?;
            // In parallel with the tasks: the rank program loads libtorch to print its version.
            let programs = tokio::spawn(record_programs(folder, record.has_finetunes()));
            runner.resume(status.report.tasks).await;
            let report = runner.run().await;
            // A program that hangs does not block the launcher.
            let _ = tokio::time::timeout(PROGRAMS_TIMEOUT, programs).await;
            report
        })??;
        let class = report.exit_code();
        index::note(self.store.home(), &record, Some(class));
        drop(lock);
        if class == 0 {
            Ok(report)
        } else {
            Err(ExperimentError::Failed(Box::new(report)).into())
        }
    }
}

async fn record_programs(folder: ExperimentFolder, trains: bool) {
    if let Err(error) = Programs::current(trains).await.write(&folder.dir) {
        tracing::debug!(%error, "cannot record the programs");
    }
}
