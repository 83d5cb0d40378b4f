//! Combination of the values of a sweep.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Combination of the values of a sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SweepMode {
    /// All combinations of the values.
    #[default]
    Grid,
    /// The first value of each path, then the second of each, and so on.
    Zip,
    /// `samples` different random points of the grid.
    Random,
}

/// Mode of a sweep, with the settings of a random one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SweepOrder {
    /// Combination of the values.
    pub mode: SweepMode,
    /// Number of points of a random sweep.
    pub samples: Option<u32>,
    /// Seed of a random sweep; the same seed gives the same points.
    pub seed: u64,
}
