//! What is tried again, when, and what is said of it.

use std::{fmt, path::PathBuf, time::Duration};

use neva_executors::JobFailure;
use neva_schemas::exit_class;

/// Longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// An attempt at a run that failed and is followed by another.
#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    /// The attempt that failed, from 1.
    pub attempt: u32,
    /// Attempts that there may be.
    pub attempts: u32,
    /// How it failed.
    pub failure: JobFailure,
    /// Time to the next attempt.
    pub pause: Duration,
    /// The checkpoint that the next attempt goes on from; without one it starts over.
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
            Some(checkpoint) => write!(f, "goes on from the last checkpoint, {}", checkpoint.display()),
            None => f.write_str("starts over: there is no checkpoint yet"),
        }
    }
}

/// Whether a failure may be gone at the next attempt. Wrong input and bugs stay.
pub(super) fn may_pass(failure: &JobFailure) -> bool {
    matches!(failure.class, exit_class::JOB | exit_class::CLUSTER)
}

/// Time between two attempts after `failed` pauses: 1 s, 2 s, 4 s and so on.
pub(super) fn pause(failed: u32) -> Duration {
    let doubled = 2u64.checked_pow(failed).map(Duration::from_secs);
    doubled.map_or(LONGEST_PAUSE, |pause| pause.min(LONGEST_PAUSE))
}
