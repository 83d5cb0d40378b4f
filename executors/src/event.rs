//! Events, status and results of a watched job.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use neva_schemas::RunReport;
use serde::{Deserialize, Serialize};

use crate::{error::ExecutorError, job::JobState};

/// An event of a watched job. [`Ended`](Self::Ended) is the last one.
#[derive(Debug)]
pub enum JobEvent {
    /// The status changed. The first event of every watch is the current status.
    Status(JobStatus),
    /// A rank wrote output.
    Output {
        /// The rank.
        rank: u32,
        /// The bytes.
        bytes: Vec<u8>,
        /// Offset after the last byte, from which a later watch can continue.
        next: u64,
    },
    /// The host or API server cannot be reached. The watch retries by itself.
    ConnectionLost {
        /// The cause.
        reason: String,
        /// Time until the next attempt.
        retry_in: Duration,
    },
    /// The connection is restored.
    ConnectionRestored,
    /// The job ended, and all requested output has been reported.
    Ended(Box<JobEnd>),
}

/// The end of a job.
#[derive(Debug)]
pub struct JobEnd {
    /// Final state; never pending or running.
    pub state: JobState,
    /// Its results, or the error that prevents reading them.
    pub results: Result<JobResults, ExecutorError>,
}

/// Status of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobStatus {
    /// State of the job.
    pub state: JobState,
    /// Reason for the state, as reported by the scheduler: `Resources`, `Priority`, `ImagePullBackOff`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Nodes of the job.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// Estimated start time in milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated_start_unix_ms: Option<u64>,
    /// Number of requeues by the scheduler itself, for example after the loss of a node.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub restarts: u32,
}

impl From<JobState> for JobStatus {
    /// Creates a status with only a state.
    fn from(state: JobState) -> Self {
        Self {
            state,
            reason: None,
            nodes: Vec::new(),
            estimated_start_unix_ms: None,
            restarts: 0,
        }
    }
}

/// Results of a job of ranks, read from its folder. Those of a script are empty.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct JobResults {
    /// Report of rank 0, if the latest attempt wrote one.
    pub report: Option<RunReport>,
    /// The checkpoint with the most steps.
    pub checkpoint: Option<PathBuf>,
}

/// Output to watch: ranks, each with the offset of the first byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchFrom(pub BTreeMap<u32, u64>);

impl WatchFrom {
    /// Watches all output of rank 0.
    pub fn rank0() -> Self {
        Self([(0, 0)].into())
    }

    /// Watches no output.
    pub fn none() -> Self {
        Self(BTreeMap::new())
    }
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}
