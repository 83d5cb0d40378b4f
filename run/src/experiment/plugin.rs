//! Hooks of an experiment for Rust programs.

use neva_schemas::Task;

use super::report::TaskReport;
use crate::error::RunError;

/// Hooks that an experiment calls.
pub trait Plugin: Send + Sync {
    /// Called for each task before anything is written or started. May change the task and its executor. The result is
    /// validated and stored. A rerun from the store uses the stored tasks and calls no plugin.
    ///
    /// # Errors
    /// The experiment is not started.
    fn before_launch(&self, name: &str, task: &mut Task) -> Result<(), RunError> {
        let _ = (name, task);
        Ok(())
    }

    /// Called after a task ended, also if it was skipped. Runs on the event loop, so it should return quickly.
    fn after_end(&self, task: &TaskReport) {
        let _ = task;
    }
}
