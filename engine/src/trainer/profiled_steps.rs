//! The steps of a profile.

use crate::profile::StepWork;

/// The steps of a profile.
#[derive(Debug, Default)]
pub(super) struct ProfiledSteps {
    /// Number of steps to record.
    pub(super) wanted: usize,
    /// Work of the steps so far.
    pub(super) done: Vec<StepWork>,
    /// Work before the next step.
    pub(super) before: StepWork,
}

impl ProfiledSteps {
    pub(super) fn new(wanted: Option<u64>) -> Self {
        Self {
            wanted: wanted.map_or(0, |steps| usize::try_from(steps).unwrap_or(usize::MAX)),
            ..Self::default()
        }
    }
}
