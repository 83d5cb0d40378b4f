//! The engine trait, implemented by Rust callers.

use crate::contract::{RankFailure, RunReport};
use crate::plan::LaunchPlan;
use crate::rank_env::RankEnv;

/// An engine turns a plan into trained weights. `neva-run` links none; a caller provides it.
pub trait Engine: Send + Sync {
    /// Trains as the given rank, in this process.
    ///
    /// # Errors
    /// The failure of the rank.
    fn train(&self, plan: &LaunchPlan, rank: &RankEnv) -> Result<RunReport, RankFailure>;
}
