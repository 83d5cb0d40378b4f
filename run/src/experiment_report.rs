//! Report of an experiment and its tasks.

use std::{fmt, path::PathBuf};

use neva_executors::{JobFailure, JobHandle};
use neva_schemas::{ExitClass, RunReport, exit_class};
use serde::{Deserialize, Serialize};

/// Report of an experiment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExperimentReport {
    /// The experiment's id.
    pub id: String,
    /// Its folder.
    pub dir: PathBuf,
    /// Its tasks, in the order in which they are written.
    pub tasks: Vec<TaskReport>,
}

/// Report of a task.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TaskReport {
    /// The task's name.
    pub name: String,
    /// Its state.
    pub state: TaskState,
    /// Number of submitted jobs.
    pub attempts: u32,
    /// Time of the first submission, in milliseconds since the epoch.
    pub started: Option<u64>,
    /// Time when the last job ended, in milliseconds since the epoch.
    pub ended: Option<u64>,
    /// The latest job.
    pub job: Option<JobHandle>,
    /// The report of a fine-tuning run.
    pub report: Option<RunReport>,
}

/// State of a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// It waits for other tasks, or for its turn.
    Pending,
    /// It was submitted.
    Running,
    /// It succeeded.
    Succeeded,
    /// It failed and is not retried.
    Failed(Box<JobFailure>),
    /// It was not started; the text is the reason.
    Skipped(String),
    /// It was cancelled.
    Cancelled,
}

impl TaskState {
    /// Returns whether the state is final.
    pub fn is_end(&self) -> bool {
        !matches!(self, Self::Pending | Self::Running)
    }

    /// Returns the state as a word.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed(_) => "failed",
            Self::Skipped(_) => "skipped",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(failure) => write!(f, "failed: {failure}"),
            Self::Skipped(reason) => write!(f, "skipped: {reason}"),
            state => f.write_str(state.name()),
        }
    }
}

impl TaskReport {
    /// Creates the report of a pending task.
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            state: TaskState::Pending,
            attempts: 0,
            started: None,
            ended: None,
            job: None,
            report: None,
        }
    }

    /// Returns the time from the first submission to the end, in milliseconds.
    pub fn duration_ms(&self) -> Option<u64> {
        Some(self.ended?.saturating_sub(self.started?))
    }
}

impl ExperimentReport {
    /// Returns the task that failed first by time.
    pub fn first_failure(&self) -> Option<(&TaskReport, &JobFailure)> {
        let failed = self.tasks.iter().filter_map(|task| match &task.state {
            TaskState::Failed(failure) => Some((task, &**failure)),
            _ => None,
        });
        failed.min_by_key(|(task, _)| task.ended)
    }

    /// Returns the exit code of the experiment: that of the first failure; a cancelled task counts as a failed job.
    pub fn exit_code(&self) -> ExitClass {
        match self.first_failure() {
            Some((_, failure)) => failure.class,
            None if self
                .tasks
                .iter()
                .all(|task| task.state == TaskState::Succeeded || self.was_skipped_as_intended(task)) =>
            {
                exit_class::DONE
            }
            None => exit_class::JOB,
        }
    }

    /// Returns whether `task` was skipped as intended, such as one that runs only after a failure. If nothing failed and
    /// nothing was cancelled, every skipped task was.
    fn was_skipped_as_intended(&self, task: &TaskReport) -> bool {
        matches!(task.state, TaskState::Skipped(_))
            && self
                .tasks
                .iter()
                .all(|task| task.state != TaskState::Cancelled && task.state.is_end())
    }
}
