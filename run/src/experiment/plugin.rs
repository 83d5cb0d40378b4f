//! Hooks of an experiment, for programs in Rust.

use neva_schemas::Task;

use super::report::TaskReport;
use crate::error::RunError;

/// Code that goes with an experiment.
pub trait Plugin: Send + Sync {
    /// Before anything is written or started: may change a task and its executor. What comes out is checked, and is
    /// what the store keeps. A repetition from the store starts from there and calls no plugin.
    ///
    /// # Errors
    /// The experiment is not started.
    fn before_launch(&self, name: &str, task: &mut Task) -> Result<(), RunError> {
        let _ = (name, task);
        Ok(())
    }

    /// After a task came to its end, also to that of not being started. It runs beside the other tasks and should not
    /// take long.
    fn after_end(&self, task: &TaskReport) {
        let _ = task;
    }
}
