//! Where each rank sits: on which node, and at which place of the mesh.

use neva_schemas::{LaunchPlan, ParallelSizes, RankEnv, Starter};
use serde::Serialize;

/// Nodes with equally many ranks each. Ranks are numbered node by node, as torchrun does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Topology {
    /// Number of nodes.
    pub num_nodes: u32,
    /// Ranks on each node.
    pub ranks_per_node: u32,
    /// Number of ranks along each axis of the mesh.
    pub sizes: ParallelSizes,
}

/// The place of one rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Coordinates {
    /// Number in the world.
    pub rank: u32,
    /// Node.
    pub node: u32,
    /// Number on the node.
    pub local_rank: u32,
    /// Place along the tensor axis.
    pub tp: u32,
    /// Place along the context axis.
    pub cp: u32,
    /// Place along the data axis.
    pub dp: u32,
    /// Place along the pipeline axis.
    pub pp: u32,
}

impl Topology {
    /// The topology of `plan`, or `None` where its ranks do not fill a mesh (a plan that did not validate).
    pub fn of(plan: &LaunchPlan) -> Option<Self> {
        let sizes = ParallelSizes::of(&plan.run.finetune.trainer)?;
        Some(Self {
            num_nodes: plan.num_nodes,
            ranks_per_node: plan.ranks_per_node,
            sizes,
        })
    }

    /// Number of ranks.
    pub fn world_size(&self) -> u32 {
        self.num_nodes * self.ranks_per_node
    }

    /// The place of `rank`: the tensor axis varies fastest, then context, data, pipeline.
    pub fn coordinates(&self, rank: u32) -> Coordinates {
        let ParallelSizes { tp, cp, dp, .. } = self.sizes;
        Coordinates {
            rank,
            node: rank / self.ranks_per_node,
            local_rank: rank % self.ranks_per_node,
            tp: rank % tp,
            cp: rank / tp % cp,
            dp: rank / (tp * cp) % dp,
            pp: rank / (tp * cp * dp),
        }
    }

    /// Every place, in the order of the ranks.
    pub fn ranks(&self) -> impl Iterator<Item = Coordinates> {
        (0..self.world_size()).map(|rank| self.coordinates(rank))
    }

    /// What a rank is told of itself and of where the ranks meet.
    pub fn rank_env(&self, rank: u32, master_addr: &str, master_port: u16) -> RankEnv {
        RankEnv {
            rank,
            world_size: self.world_size(),
            local_rank: rank % self.ranks_per_node,
            local_world_size: self.ranks_per_node,
            master_addr: master_addr.to_owned(),
            master_port,
            agent_store: false,
            restart_count: 0,
            starter: Starter::Torchrun,
        }
    }
}
