//! The contract of a place to run, and the values that pass through it.

use std::{fmt, pin::Pin};

use neva_schemas::{LaunchPlan, ScriptPlan};
use serde::{Deserialize, Serialize};

use crate::{error::ExecutorError, failure::JobFailure, submission::Submission};

/// A boxed future, so that `dyn Executor` has asynchronous methods.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A place where plans run. Implementations are plain settings: everything that is known of a job lies
/// with the job, so that any process can ask after it at any time.
pub trait Executor: Send + Sync {
    /// Name on the command line.
    fn name(&self) -> &'static str;

    /// What [`submit`](Self::submit) would do. Pure: neither I/O nor clock.
    ///
    /// # Errors
    /// A plan that cannot run here.
    fn render(&self, plan: &LaunchPlan) -> Result<Submission, ExecutorError>;

    /// As [`render`](Self::render), of a script: a job of one process, whose output is that of rank 0.
    ///
    /// # Errors
    /// A script that cannot run here.
    fn render_script(&self, script: &ScriptPlan) -> Result<Submission, ExecutorError>;

    /// Starts the job. A folder in which a job ended takes another, which is a further attempt at the same
    /// run: checkpoints, metrics and the records of failures stay, and the logs of the attempt before are kept
    /// apart from those of this one.
    ///
    /// # Errors
    /// The job did not start, and nothing of it is left running.
    fn submit<'a>(&'a self, submission: &'a Submission) -> BoxFuture<'a, Result<JobHandle, ExecutorError>>;

    /// What became of the job.
    ///
    /// # Errors
    /// The place cannot be asked, or does not know the job.
    fn state<'a>(&'a self, job: &'a JobHandle) -> BoxFuture<'a, Result<JobState, ExecutorError>>;

    /// Output of `rank` from byte `offset` on, a bounded part of it; empty where there is none yet.
    ///
    /// # Errors
    /// The place cannot be asked, or does not know the job.
    fn logs<'a>(&'a self, job: &'a JobHandle, rank: u32, offset: u64) -> BoxFuture<'a, Result<LogChunk, ExecutorError>>;

    /// Asks for the job's end: ranks may save and leave. Returns at once; [`state`](Self::state) tells when
    /// the job is over. A second call kills.
    ///
    /// # Errors
    /// The place cannot be asked, or does not know the job.
    fn cancel<'a>(&'a self, job: &'a JobHandle) -> BoxFuture<'a, Result<(), ExecutorError>>;
}

/// Names a job for good, for example `local:///home/me/nemo_experiments/default/2026-11-24_10-00-00`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobHandle(pub String);

impl fmt::Display for JobHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What became of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// It waits for its place.
    Pending,
    /// Its ranks run.
    Running,
    /// All ranks succeeded.
    Succeeded,
    /// A rank failed, or the job could not go on.
    Failed(JobFailure),
    /// Somebody asked for its end.
    Cancelled,
}

/// A part of a rank's output.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogChunk {
    /// The bytes, as the rank wrote them.
    pub bytes: Vec<u8>,
    /// Offset to ask for next.
    pub next: u64,
}
