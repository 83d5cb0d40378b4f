//! The run context of a rank, and the progress that it reports.

use super::registry::Registry;
use super::stop::StopRequest;
use crate::checkpoint::{ModelCache, Saving};
use crate::comm::Mesh;
use std::cell::{Cell, RefCell};
use std::path::Path;
use tch::Device;

/// Environment of a rank's run, in addition to the plan.
#[derive(Debug)]
pub struct RunContext<'a> {
    /// The run's folder.
    pub run_dir: &'a Path,
    /// The mesh, with this rank's position in it.
    pub mesh: Mesh,
    /// Device of its tensors.
    pub device: Device,
    /// Cache of `nemo://` models.
    pub cache: &'a ModelCache,
    /// Types that the recipe may name.
    pub registry: &'a Registry,
    /// A request to stop.
    pub stop: &'a StopRequest,
    /// Looks up an environment variable, for credentials.
    pub environment: fn(&str) -> Option<String>,
}

/// Progress of a run, for the report of its failure.
#[derive(Debug, Default)]
pub struct Progress {
    /// Current optimizer step, from 0.
    pub step: Cell<Option<u64>>,
    /// The save that was in progress when the run failed. Dropping it waits until it ends.
    pub last_save: RefCell<Option<Saving>>,
}
