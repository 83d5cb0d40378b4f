//! The launch plan: everything a rank needs, as one value in one file.

use crate::recipe::Run;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Format number of `plan.json`. A reader refuses other numbers.
pub const PLAN_FORMAT: u32 = 1;

/// A launch plan. It is resolved, so no rank parses YAML and all ranks read the same bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchPlan {
    /// Format number, [`PLAN_FORMAT`].
    pub format: u32,
    /// Version of the program that wrote the plan.
    pub version: String,
    /// Name of the run.
    pub name: String,
    /// The run's folder, absolute.
    pub run_dir: PathBuf,
    /// Number of nodes.
    pub num_nodes: u32,
    /// Ranks on each node.
    pub ranks_per_node: u32,
    /// Additional environment of the ranks. Secrets do not belong here: the plan is written to disk.
    pub env: BTreeMap<String, String>,
    /// The resolved run.
    pub run: Run,
}

impl LaunchPlan {
    /// Returns the number of ranks.
    pub fn world_size(&self) -> u32 {
        self.num_nodes * self.ranks_per_node
    }
}
