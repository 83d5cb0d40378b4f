//! Parallel sizes and rank coordinates of the mesh.

use crate::trainer::TrainerConfig;
use serde::{Deserialize, Serialize};

/// Number of ranks along each axis of the mesh. Only [`coordinates`](Self::coordinates) and [`rank`](Self::rank) know
/// how ranks are numbered on it.
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

    /// Returns the sizes of the trainer's mesh, or `None` if its ranks do not divide evenly.
    pub fn from_trainer(trainer: &TrainerConfig) -> Option<Self> {
        let strategy = &trainer.strategy;
        let model_ranks = strategy.model_ranks();
        if model_ranks == 0 || !trainer.world_size().is_multiple_of(model_ranks) {
            return None;
        }
        // `TrainerConfig::validate` refuses more ranks than can be numbered.
        u32::try_from(trainer.world_size()).ok()?;
        Some(Self {
            tp: strategy.tensor_model_parallel_size,
            cp: strategy.context_parallel_size,
            dp: u32::try_from(trainer.world_size() / model_ranks).ok()?,
            pp: strategy.pipeline_model_parallel_size,
        })
    }

    /// Returns the number of ranks.
    pub fn world(&self) -> u32 {
        self.tp * self.cp * self.dp * self.pp
    }

    /// Returns the coordinates of `rank`. The tensor axis varies fastest, then context, data, pipeline: Megatron's order
    /// `tp-cp-dp-pp`.
    pub fn coordinates(&self, rank: u32) -> MeshCoordinates {
        let Self { tp, cp, dp, .. } = *self;
        MeshCoordinates {
            tp: rank % tp,
            cp: rank / tp % cp,
            dp: rank / tp / cp % dp,
            pp: rank / tp / cp / dp,
        }
    }

    /// Returns the rank at the coordinates: the inverse of [`coordinates`](Self::coordinates).
    pub fn rank(&self, at: MeshCoordinates) -> u32 {
        at.tp + self.tp * (at.cp + self.cp * (at.dp + self.dp * at.pp))
    }
}

/// Coordinates of a rank on the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MeshCoordinates {
    /// Tensor-parallel rank.
    pub tp: u32,
    /// Context-parallel rank.
    pub cp: u32,
    /// Data-parallel rank.
    pub dp: u32,
    /// Pipeline-parallel rank.
    pub pp: u32,
}
