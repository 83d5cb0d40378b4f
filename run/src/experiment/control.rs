//! What is done with an experiment that was started before, by whatever process: it is ended, gone on with, done
//! again, or its output is read.

use super::{
    builder::ExperimentOptions,
    detach,
    error::ExperimentError,
    folder::ExperimentFolder,
    gate::participle,
    report::{ExperimentReport, TaskState},
    rerun::repetition,
};
use crate::{error::RunError, runtime};

impl ExperimentFolder {
    /// Asks for the end of `task`, or of all, and does not wait for it. A second time kills.
    ///
    /// # Errors
    /// Nothing runs that could be ended, or the request cannot be written.
    pub fn cancel(&self, task: Option<&str>) -> Result<(), RunError> {
        let status = self.status()?;
        if let Some(task) = task {
            status.record.known(task)?;
        }
        let tasks = || {
            status
                .report
                .tasks
                .iter()
                .filter(|entry| task.is_none_or(|task| task == entry.name))
        };
        if status.alive {
            if let (Some(task), Some(state)) = (task, tasks().map(|entry| &entry.state).find(|state| state.is_end())) {
                return Err(RunError::Argument(format!("the task `{task}` {} already", participle(state))));
            }
            return self.request_cancel(task);
        }
        // Jobs may outlive a launcher that was killed.
        let mut running = tasks().filter(|entry| entry.state == TaskState::Running).peekable();
        if running.peek().is_none() {
            return Err(ExperimentError::NotRunning { id: self.id.clone() }.into());
        }
        running.try_for_each(|task| runtime()?.block_on(status.cancel_job(task)))
    }

    /// Goes on with an experiment whose launcher is gone or that did not end well, to its end: tasks that ended well
    /// are kept, jobs that live are watched on, everything else is done again. Blocks, as
    /// [`Experiment::run`](super::Experiment::run) does.
    ///
    /// # Errors
    /// As `Experiment::run`; and a launcher has the experiment, or all of it ended well.
    pub fn resume(&self, options: ExperimentOptions) -> Result<ExperimentReport, RunError> {
        let launcher = options.bare_launcher()?;
        let lock = self.lock()?;
        launcher.run(self.clone(), lock)
    }

    /// Does the experiment again, as a new one: configuration and texts of scripts as they were, programs and data
    /// as they are. [`differences`](Self::differences) tells how they differ. Blocks.
    ///
    /// # Errors
    /// As [`Experiment::run`](super::Experiment::run).
    pub fn rerun(&self, options: ExperimentOptions) -> Result<ExperimentReport, RunError> {
        let mut record = repetition(self)?;
        let launcher = options.bare_launcher()?;
        launcher.check(&record)?;
        let (folder, lock) = launcher.create(&mut record)?;
        launcher.run(folder, lock)
    }

    /// As [`rerun`](Self::rerun), through a launcher of its own.
    pub(crate) fn rerun_detached(&self, options: ExperimentOptions) -> Result<Self, RunError> {
        let mut record = repetition(self)?;
        let launcher = options.bare_launcher()?;
        launcher.check(&record)?;
        let (folder, lock) = launcher.create(&mut record)?;
        drop(lock);
        detach::start(&folder)?;
        Ok(folder)
    }

    /// As [`resume`](Self::resume), through a launcher of its own.
    pub(crate) fn resume_detached(&self) -> Result<(), RunError> {
        detach::start(self)
    }

    /// What the latest job of `task` wrote so far: of a fine-tune, its rank 0.
    ///
    /// # Errors
    /// There is no such task, or its executor cannot be asked.
    pub fn output(&self, task: &str) -> Result<Vec<u8>, RunError> {
        let status = self.status()?;
        status.record.known(task)?;
        let job = status.report.tasks.iter().find(|entry| entry.name == task);
        let Some(job) = job.and_then(|entry| entry.job.as_ref()) else {
            return Ok(Vec::new());
        };
        let executor = status.executor(task);
        runtime()?.block_on(async {
            let mut output = Vec::new();
            loop {
                let chunk = executor.logs(job, 0, output.len() as u64).await?;
                if chunk.bytes.is_empty() {
                    return Ok(output);
                }
                output.extend(chunk.bytes);
            }
        })
    }
}
