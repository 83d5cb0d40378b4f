//! Sizes of the mesh axes, derived from the trainer.

use crate::strategy::MegatronStrategy;
use crate::trainer::Trainer;
use serde::{Deserialize, Serialize};

/// Number of ranks along each axis of the mesh. The tensor axis varies fastest with the rank, then
/// context, data, pipeline (Megatron's order `tp-cp-dp-pp`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParallelSizes {
    /// Tensor axis.
    pub tp: u32,
    /// Context axis.
    pub cp: u32,
    /// Data axis.
    pub dp: u32,
    /// Pipeline axis.
    pub pp: u32,
}

impl ParallelSizes {
    /// One rank.
    pub const ONE: Self = Self {
        tp: 1,
        cp: 1,
        dp: 1,
        pp: 1,
    };

    /// Sizes that the trainer's ranks form, or `None` where they do not divide evenly.
    pub fn of(trainer: &Trainer) -> Option<Self> {
        let strategy = &trainer.strategy;
        let model_ranks = Self::model_ranks(strategy);
        if model_ranks == 0 || !trainer.world_size().is_multiple_of(model_ranks) {
            return None;
        }
        // More ranks than can be numbered are refused elsewhere.
        u32::try_from(trainer.world_size()).ok()?;
        Some(Self {
            tp: strategy.tensor_model_parallel_size,
            cp: strategy.context_parallel_size,
            dp: u32::try_from(trainer.world_size() / model_ranks).ok()?,
            pp: strategy.pipeline_model_parallel_size,
        })
    }

    /// Ranks that hold one copy of the model; at most `u64::MAX`.
    pub fn model_ranks(strategy: &MegatronStrategy) -> u64 {
        let tensor_and_context = u64::from(strategy.tensor_model_parallel_size) * u64::from(strategy.context_parallel_size);
        tensor_and_context.saturating_mul(strategy.pipeline_model_parallel_size.into())
    }

    /// Number of ranks.
    pub fn world(&self) -> u32 {
        self.tp * self.cp * self.dp * self.pp
    }
}
