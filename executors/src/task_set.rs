//! Several tasks of an experiment that become one job.

use std::path::Path;

use neva_schemas::ExecutorConfig;

use crate::work::Work;

/// Tasks that become one job. Each has a folder of its own, and gets a handle of its own.
#[derive(Debug, Clone)]
pub struct TaskSet<'a> {
    /// Name of the job.
    pub name: &'a str,
    /// Folder of the job itself.
    pub dir: &'a Path,
    /// How the tasks run.
    pub kind: TaskSetKind,
    /// The tasks, each with the settings of its executor.
    pub tasks: &'a [(&'a ExecutorConfig, Work<'a>)],
}

/// How the tasks of a set run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskSetKind {
    /// Independently of each other, with the same resources.
    Array {
        /// Maximum number of tasks that run at the same time.
        cap: Option<u32>,
    },
    /// At the same time: if one fails, the others are ended; if one succeeds, the others continue.
    Group,
}
