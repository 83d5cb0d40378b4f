//! Time for which a submission waits for a machine or a controller that cannot be reached.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::SlurmExecutor;
use crate::error::ExecutorError;

/// Longest pause between two attempts.
const MAX_PAUSE: Duration = Duration::from_secs(15);

/// Waits while the machine or the controller cannot be reached.
pub(super) struct SubmitTimeout {
    pause: Duration,
    deadline: Instant,
    is_warned: bool,
}

impl SubmitTimeout {
    pub(super) fn new(executor: &SlurmExecutor) -> Self {
        Self {
            pause: executor.interval().first,
            deadline: Instant::now() + executor.submit_timeout,
            is_warned: false,
        }
    }

    /// Pauses before a repetition.
    ///
    /// # Errors
    /// Returns `error` if a repetition does not help, or the time is over.
    pub(super) async fn wait(&mut self, error: ExecutorError) -> Result<(), ExecutorError> {
        if !error.is_connection_lost() || Instant::now() + self.pause >= self.deadline {
            return Err(error);
        }
        if !std::mem::replace(&mut self.is_warned, true) {
            let minutes = (self.deadline - Instant::now()).as_secs().div_ceil(60);
            tracing::warn!("{}; the submission waits for it, up to {minutes} min", error.reason());
        }
        sleep(self.pause).await;
        self.pause = (2 * self.pause).min(MAX_PAUSE);
        Ok(())
    }
}
