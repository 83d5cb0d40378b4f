//! The executor trait.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    pin::Pin,
};

use futures_util::stream::BoxStream;
use neva_schemas::{LaunchPlan, ScriptPlan, StopSignal, When};

use crate::{
    error::ExecutorError,
    event::{JobEvent, JobResults, JobStatus, WatchFrom},
    job::JobHandle,
    submission::Submission,
    task_set::TaskSet,
};

/// A boxed future, so that `dyn Executor` has asynchronous methods.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A boxed stream of the events of a watched job.
pub type JobEvents<'a> = BoxStream<'a, Result<JobEvent, ExecutorError>>;

/// An executor runs launch plans. Implementations hold only settings: the state of a job is stored with the job, so
/// any later process can watch it, read its logs and cancel it from its [`JobHandle`] alone.
///
/// The launcher does not access a job's folder itself: on a cluster the folder is on another machine.
pub trait Executor: Send + Sync {
    /// Returns the executor's name for the command line.
    fn name(&self) -> &'static str;

    /// Returns true if the jobs' processes see the files of the launcher's machine. The default is false.
    fn shares_files(&self) -> bool {
        false
    }

    /// Returns true if jobs run on the launcher's own machine and share its cores and GPUs. The default is false.
    fn is_this_machine(&self) -> bool {
        false
    }

    /// Returns the absolute folder of runs that name none; `None` for the default in the launcher's working directory.
    fn runs_folder(&self) -> Option<&Path> {
        None
    }

    /// Returns the folder that relative paths of a job in `dir` are relative to; `None` for the launcher's working directory.
    fn paths_folder(&self, _dir: &Path) -> Option<PathBuf> {
        None
    }

    /// Renders the submission of a plan. Pure: it uses neither I/O nor a clock.
    ///
    /// # Errors
    /// The plan cannot run here.
    fn render(&self, plan: &LaunchPlan) -> Result<Submission, ExecutorError>;

    /// Renders the submission of a script: a job of one process, whose output is that of rank 0.
    ///
    /// # Errors
    /// The script cannot run here.
    fn render_script(&self, script: &ScriptPlan) -> Result<Submission, ExecutorError>;

    /// Creates the folder of a new run exclusively: `dir`, or if it exists the first free of `<dir>-1`, `<dir>-2` and so on,
    /// as when two runs start in the same second. The submission is rendered for the returned folder.
    ///
    /// # Errors
    /// The folder cannot be created.
    fn create_folder<'a>(&'a self, dir: &'a Path) -> BoxFuture<'a, Result<PathBuf, ExecutorError>>;

    /// Starts the job. In the folder of an ended job this is a further attempt at the same run: checkpoints, metrics and
    /// failure records are kept, the logs of the earlier attempt are moved, and its report is removed.
    ///
    /// A lost connection never starts a second job: before a retry, the executor searches for the first one.
    ///
    /// # Errors
    /// The job did not start, and none of its processes is running.
    fn submit<'a>(&'a self, submission: &'a Submission) -> BoxFuture<'a, Result<JobHandle, ExecutorError>>;

    /// Returns true if the executor can hold a job back until other jobs of it have ended, so that the launcher may be gone
    /// when they do. The default is false.
    fn queues(&self) -> bool {
        false
    }

    /// As [`submit`](Self::submit), but the job starts only after these jobs of the same executor ended as required. A job
    /// whose requirement cannot be met any more is cancelled. Called only if [`queues`](Self::queues) returns true.
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    fn submit_after<'a>(
        &'a self,
        submission: &'a Submission,
        _after: &'a [(JobHandle, When)],
    ) -> BoxFuture<'a, Result<JobHandle, ExecutorError>> {
        self.submit(submission)
    }

    /// Returns true if several tasks can be one job. The default is false: the launcher submits each alone.
    fn joins_tasks(&self) -> bool {
        false
    }

    /// Renders tasks as one job. Pure. Called only if [`joins_tasks`](Self::joins_tasks) returns true.
    ///
    /// # Errors
    /// The tasks cannot be one job here.
    fn render_tasks(&self, _tasks: &TaskSet<'_>) -> Result<Submission, ExecutorError> {
        Err(not_joined())
    }

    /// Starts the job of several tasks and returns the handle of each task, in order. The folder of each is prepared as that
    /// of [`submit`](Self::submit), and the job starts as that of [`submit_after`](Self::submit_after).
    ///
    /// # Errors
    /// As [`submit`](Self::submit): no task was started.
    fn submit_tasks<'a>(
        &'a self,
        _submission: &'a Submission,
        _after: &'a [(JobHandle, When)],
    ) -> BoxFuture<'a, Result<Vec<JobHandle>, ExecutorError>> {
        Box::pin(async { Err(not_joined()) })
    }

    /// Returns the latest job in the folder `dir`, for a launcher whose predecessor was killed before it recorded the handle.
    /// The default finds none.
    ///
    /// # Errors
    /// The folder cannot be read.
    fn find_job<'a>(&'a self, _dir: &'a Path) -> BoxFuture<'a, Result<Option<JobHandle>, ExecutorError>> {
        Box::pin(async { Ok(None) })
    }

    /// Returns the events of the job until it ends, polled at an interval that suits the executor. Several watches of one
    /// job return the same events. Dropping the stream ends the watch, not the job.
    fn watch<'a>(&'a self, job: &'a JobHandle, from: WatchFrom) -> JobEvents<'a>;

    /// Returns the status of the job.
    ///
    /// # Errors
    /// The status cannot be queried, or the job does not exist.
    fn status<'a>(&'a self, job: &'a JobHandle) -> BoxFuture<'a, Result<JobStatus, ExecutorError>>;

    /// As [`status`](Self::status), for a watch: many watched jobs may share a query, so the status may be a second old.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    fn watched_status<'a>(&'a self, job: &'a JobHandle) -> BoxFuture<'a, Result<JobStatus, ExecutorError>> {
        self.status(job)
    }

    /// Returns the status of each of `jobs`, in order. An executor that can query many jobs at once overrides this.
    fn statuses<'a>(&'a self, jobs: &'a [JobHandle]) -> BoxFuture<'a, Vec<Result<JobStatus, ExecutorError>>> {
        Box::pin(async move {
            let mut statuses = Vec::with_capacity(jobs.len());
            for job in jobs {
                statuses.push(self.status(job).await);
            }
            statuses
        })
    }

    /// Returns a bounded chunk of the output of `rank` from byte `offset` on; empty if there is none yet.
    ///
    /// # Errors
    /// The output cannot be read, or the job does not exist.
    fn logs<'a>(&'a self, job: &'a JobHandle, rank: u32, offset: u64) -> BoxFuture<'a, Result<LogChunk, ExecutorError>>;

    /// Returns a bounded chunk of the output of each rank in `from`, from its offset on; ranks without new output may be
    /// absent. An executor that can read several at once overrides this.
    ///
    /// # Errors
    /// As [`Self::logs`].
    fn output<'a>(
        &'a self,
        job: &'a JobHandle,
        from: &'a BTreeMap<u32, u64>,
    ) -> BoxFuture<'a, Result<BTreeMap<u32, LogChunk>, ExecutorError>> {
        Box::pin(async move {
            let mut chunks = BTreeMap::new();
            for (rank, offset) in from {
                chunks.insert(*rank, self.logs(job, *rank, *offset).await?);
            }
            Ok(chunks)
        })
    }

    /// Returns the results of the latest attempt so far.
    ///
    /// # Errors
    /// The results cannot be read, or the job does not exist.
    fn results<'a>(&'a self, job: &'a JobHandle) -> BoxFuture<'a, Result<JobResults, ExecutorError>>;

    /// Requests cancellation: ranks may save and exit. Returns at once; the watch reports the end of the job. A second
    /// request kills. Ranks receive `signal` if the executor can send it, and name it in their report.
    ///
    /// # Errors
    /// The request cannot be sent, or the job does not exist.
    fn cancel<'a>(&'a self, job: &'a JobHandle, signal: StopSignal) -> BoxFuture<'a, Result<(), ExecutorError>>;
}

fn not_joined() -> ExecutorError {
    ExecutorError::Refused {
        message: "this executor does not run several tasks as one job".to_owned(),
        help: "submit each task alone".to_owned(),
    }
}

/// A chunk of a rank's output.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogChunk {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Offset of the next chunk.
    pub next: u64,
}
