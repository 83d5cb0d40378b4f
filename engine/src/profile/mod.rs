//! Profile of a run: the spans of all ranks as a trace, and a table of where the steps went. Values only: the trainer records,
//! collects and writes them.

mod nesting;
mod peak;
mod summary;
mod trace;

pub use peak::measured_peak;
pub use summary::{PROFILE_FORMAT, PhaseTime, ProfileSummary};
pub use trace::write_trace;

use crate::profiler::Recorded;
use neva_schemas::Precision;
use serde::{Deserialize, Serialize};

/// Names of the phases of a step, in their order. Spans within a phase have other names.
pub mod phase {
    /// Fetches the microbatches.
    pub const DATA: &str = "data";
    /// Agrees with the other ranks on stops and saves.
    pub const AGREE: &str = "agree";
    /// A forward pass.
    pub const FORWARD: &str = "forward";
    /// A backward pass.
    pub const BACKWARD: &str = "backward";
    /// Waits of a pipeline stage for its neighbours, and other collectives between phases.
    pub const COMMUNICATION: &str = "communication";
    /// Reduces gradients over the ranks.
    pub const REDUCE: &str = "reduce";
    /// Computes the gradient's norm, and clips.
    pub const CLIP: &str = "clip";
    /// Updates the parameters.
    pub const OPTIMIZER: &str = "optimizer";
    /// Writes metrics and calls callbacks.
    pub const LOG: &str = "log";
    /// A validation.
    pub const VALIDATE: &str = "validate";
    /// Starts or finishes a save.
    pub const SAVE: &str = "save";
    /// Everything else.
    pub const OTHER: &str = "other";

    /// All phases.
    pub const ALL: [&str; 12] = [
        DATA,
        AGREE,
        FORWARD,
        BACKWARD,
        COMMUNICATION,
        REDUCE,
        CLIP,
        OPTIMIZER,
        LOG,
        VALIDATE,
        SAVE,
        OTHER,
    ];
}

/// Name of the span of a step.
pub const STEP: &str = "step";

/// What one rank recorded of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RankProfile {
    /// Rank.
    pub rank: usize,
    /// Name of its machine.
    pub host: String,
    /// Its spans.
    pub recorded: Recorded,
    /// Work of its steps.
    pub steps: Vec<StepWork>,
    /// Data type of its matrix products.
    pub precision: Precision,
    /// Number of its threads.
    pub threads: u32,
    /// Operations a second of a large matrix product on this rank; 0 if it was not measured.
    pub peak_flops: f64,
}

/// Work of a step on one rank.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct StepWork {
    /// Step, from 0.
    pub step: u64,
    /// Operations of the model for the rank's samples, by [`neva_layout::ModelFlops`]; 0 on all but one of the ranks that
    /// train the same samples.
    pub model_flops: f64,
    /// Operations of the matrix products that this rank computed.
    pub product_flops: f64,
    /// Positions of the rank's samples; 0 on all but one of the ranks that train the same samples.
    pub tokens: u64,
}
