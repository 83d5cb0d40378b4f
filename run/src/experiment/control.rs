//! Operations on an experiment that any process started: cancel, resume, rerun, read output.

use super::{
    detach,
    error::ExperimentError,
    folder::ExperimentFolder,
    options::ExperimentOptions,
    report::{ExperimentReport, TaskState},
    rerun::rerun_record,
    task_graph::past_tense,
};
use crate::{error::RunError, runtime};

impl ExperimentFolder {
    /// Requests the stop of `task`, or of all tasks, without waiting for it. A second request kills.
    ///
    /// # Errors
    /// Nothing is running, or the request cannot be written.
    pub fn cancel(&self, task: Option<&str>) -> Result<(), RunError> {
        let status = self.status()?;
        if let Some(task) = task {
            status.record.require_task(task)?;
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
                return Err(RunError::Argument(format!("the task `{task}` {} already", past_tense(state))));
            }
            return self.request_cancel(task);
        }
        // Jobs may outlive a killed launcher.
        let mut running = tasks().filter(|entry| entry.state == TaskState::Running).peekable();
        if running.peek().is_none() {
            return Err(ExperimentError::NotRunning { id: self.id.clone() }.into());
        }
        running.try_for_each(|task| runtime()?.block_on(status.cancel_job(task)))
    }

    /// Resumes an experiment that failed or whose launcher died, and runs it to its end. Keeps tasks that succeeded,
    /// attaches to jobs that are alive, and runs all others again. Blocks, like
    /// [`Experiment::run`](super::Experiment::run).
    ///
    /// # Errors
    /// As `Experiment::run`; or the experiment is running, or every task succeeded.
    pub fn resume(&self, options: ExperimentOptions) -> Result<ExperimentReport, RunError> {
        let launcher = options.launcher_without_plugins()?;
        let lock = self.lock()?;
        launcher.run(self.clone(), lock)
    }

    /// Runs the experiment again as a new one, with the recorded configuration and scripts, but today's programs and
    /// data. [`differences`](Self::differences) lists how these differ. Blocks.
    ///
    /// # Errors
    /// As [`Experiment::run`](super::Experiment::run).
    pub fn rerun(&self, options: ExperimentOptions) -> Result<ExperimentReport, RunError> {
        let mut record = rerun_record(self)?;
        let launcher = options.launcher_without_plugins()?;
        launcher.check(&record)?;
        let (folder, lock) = launcher.create(&mut record)?;
        launcher.run(folder, lock)
    }

    /// Like [`rerun`](Self::rerun), in a detached launcher.
    pub(crate) fn rerun_detached(&self, options: ExperimentOptions) -> Result<Self, RunError> {
        let mut record = rerun_record(self)?;
        let launcher = options.launcher_without_plugins()?;
        launcher.check(&record)?;
        let (folder, lock) = launcher.create(&mut record)?;
        drop(lock);
        detach::start(&folder)?;
        Ok(folder)
    }

    /// Like [`resume`](Self::resume), in a detached launcher.
    pub(crate) fn resume_detached(&self) -> Result<(), RunError> {
        detach::start(self)
    }

    /// Returns the output so far of the latest job of `task`; of rank 0 for a fine-tune.
    ///
    /// # Errors
    /// There is no such task, or its executor cannot read the output.
    pub fn output(&self, task: &str) -> Result<Vec<u8>, RunError> {
        let status = self.status()?;
        status.record.require_task(task)?;
        let job = status.report.tasks.iter().find(|entry| entry.name == task);
        let Some(job) = job.and_then(|entry| entry.job.as_ref()) else {
            return Ok(Vec::new());
        };
        let executor = status.executor(task)?;
        runtime()?.block_on(async {
            let (mut output, mut longest) = (Vec::new(), 0);
            loop {
                let chunk = executor.logs(job, 0, output.len() as u64).await?;
                let length = chunk.bytes.len();
                output.extend(chunk.bytes);
                // A shorter chunk reaches the end, also of a job that writes all the time.
                if length == 0 || length < longest {
                    return Ok(output);
                }
                longest = length;
            }
        })
    }
}
