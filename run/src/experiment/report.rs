//! What became of an experiment and its tasks.

use std::{fmt, path::PathBuf};

use neva_executors::{JobFailure, JobHandle};
use neva_schemas::{ExitClass, RunReport, exit_class};
use serde::{Deserialize, Serialize};

/// What became of an experiment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExperimentReport {
    /// The experiment's id.
    pub id: String,
    /// Its folder.
    pub dir: PathBuf,
    /// Its tasks, in the order in which they are written.
    pub tasks: Vec<TaskReport>,
}

/// What became of a task.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TaskReport {
    /// The task's name.
    pub name: String,
    /// How far it has come.
    pub state: TaskState,
    /// Jobs that were submitted for it.
    pub attempts: u32,
    /// When the first was, in milliseconds since the epoch.
    pub started: Option<u64>,
    /// When the last ended, in milliseconds since the epoch.
    pub ended: Option<u64>,
    /// The latest job.
    pub job: Option<JobHandle>,
    /// What a fine-tune left.
    pub report: Option<RunReport>,
}

/// How far a task has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// It waits for others, or for its turn.
    Pending,
    /// It was submitted.
    Running,
    /// It ended well.
    Succeeded,
    /// It ended badly, and is not tried again.
    Failed(Box<JobFailure>),
    /// It was not started; a sentence says why.
    Skipped(String),
    /// Somebody asked for its end.
    Cancelled,
}

impl TaskState {
    /// Whether nothing more will happen.
    pub fn is_end(&self) -> bool {
        !matches!(self, Self::Pending | Self::Running)
    }

    /// The state in a word.
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
    /// A task of which nothing is known yet.
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

    /// Time from the first submission to the end, in milliseconds.
    pub fn duration_ms(&self) -> Option<u64> {
        Some(self.ended?.saturating_sub(self.started?))
    }
}

impl ExperimentReport {
    /// The task that failed first by time.
    pub fn first_failure(&self) -> Option<(&TaskReport, &JobFailure)> {
        let failed = self.tasks.iter().filter_map(|task| match &task.state {
            TaskState::Failed(failure) => Some((task, &**failure)),
            _ => None,
        });
        failed.min_by_key(|(task, _)| task.ended)
    }

    /// The exit code of the experiment: that of the first failure; a cancelled task is a failed job.
    pub fn class(&self) -> ExitClass {
        match self.first_failure() {
            Some((_, failure)) => failure.class,
            None if self
                .tasks
                .iter()
                .all(|task| task.state == TaskState::Succeeded || self.was_meant(task)) =>
            {
                exit_class::DONE
            }
            None => exit_class::JOB,
        }
    }

    /// Whether a task that was not started did not have to be: what waits for a failure waits in vain in the good
    /// case. Where nothing failed and nothing was cancelled, every task that was skipped is one of these.
    fn was_meant(&self, task: &TaskReport) -> bool {
        matches!(task.state, TaskState::Skipped(_))
            && self
                .tasks
                .iter()
                .all(|task| task.state != TaskState::Cancelled && task.state.is_end())
    }
}
