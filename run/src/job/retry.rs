//! Retries: which failures are retried, when, and the message about them.

use std::{fmt, path::PathBuf, time::Duration};

use neva_executors::JobFailure;
use neva_schemas::exit_class;

/// Longest pause between two attempts.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// A failed attempt that is followed by another.
#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    /// The attempt that failed, from 1.
    pub attempt: u32,
    /// Maximum number of attempts.
    pub attempts: u32,
    /// The failure.
    pub failure: JobFailure,
    /// Time until the next attempt.
    pub pause: Duration,
    /// Checkpoint from which the next attempt resumes; without one it starts over.
    pub checkpoint: Option<PathBuf>,
}

impl fmt::Display for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            attempt,
            attempts,
            failure,
            pause,
            checkpoint,
        } = self;
        writeln!(f, "attempt {attempt} of {attempts} failed: {failure}")?;
        write!(f, "attempt {} starts in {} s and ", attempt + 1, pause.as_secs())?;
        match checkpoint {
            Some(checkpoint) => write!(f, "resumes from the last checkpoint, {}", checkpoint.display()),
            None => f.write_str("starts over: there is no checkpoint yet"),
        }
    }
}

/// Returns true if a retry may succeed. Wrong input and bugs are not retried.
pub(super) fn is_retryable(failure: &JobFailure) -> bool {
    matches!(failure.class, exit_class::JOB | exit_class::CLUSTER)
}

/// Returns the pause before the next attempt after `failed` earlier pauses: 1 s, 2 s, 4 s and so on.
pub(super) fn pause(failed: u32) -> Duration {
    let doubled = 2u64.checked_pow(failed).map(Duration::from_secs);
    doubled.map_or(MAX_PAUSE, |pause| pause.min(MAX_PAUSE))
}
