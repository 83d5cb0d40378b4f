//! How the values of a sweep are combined.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the values of a sweep are combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SweepMode {
    /// Each value of one path with each of the others.
    #[default]
    Grid,
    /// Side by side: the first of each, the second of each, and so on.
    Zip,
    /// So many different points of the grid, drawn.
    Random,
}

/// The order of a sweep: `mode`, and what a random one needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SweepOrder {
    /// How values are combined.
    pub mode: SweepMode,
    /// Points of a random sweep.
    pub samples: Option<u32>,
    /// The same seed draws the same points.
    pub seed: u64,
}
