//! Handle and state of a job.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::failure::JobFailure;

/// Permanent handle of a job, for example `local:///home/me/nemo_experiments/default/2026-11-24_10-00-00`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobHandle(pub String);

impl fmt::Display for JobHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// State of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// It waits for resources.
    Pending,
    /// Its ranks are running.
    Running,
    /// All ranks succeeded.
    Succeeded,
    /// A rank failed, or the job could not continue.
    Failed(JobFailure),
    /// It was cancelled.
    Cancelled,
}

impl JobState {
    /// Returns true if the job has ended.
    pub fn is_end(&self) -> bool {
        !matches!(self, Self::Pending | Self::Running)
    }

    /// Returns the state as one word.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed(_) => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}
