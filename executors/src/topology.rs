//! Placement of ranks on nodes and on the mesh.

use neva_schemas::{LaunchPlan, MeshCoordinates, ParallelSizes, RankEnv, Starter};
use serde::Serialize;

/// Nodes with the same number of ranks each. Ranks are numbered node by node, as in torchrun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Topology {
    /// Number of nodes.
    pub num_nodes: u32,
    /// Ranks on each node.
    pub ranks_per_node: u32,
    /// Parallel sizes of the mesh.
    pub sizes: ParallelSizes,
}

/// Placement of one rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Coordinates {
    /// Rank in the world.
    pub rank: u32,
    /// Node.
    pub node: u32,
    /// Rank on the node.
    pub local_rank: u32,
    /// Coordinates on the mesh.
    pub mesh: MeshCoordinates,
}

impl Topology {
    /// Returns the topology of `plan`, or `None` if its ranks do not fill a mesh (a plan that was not validated).
    pub fn from_plan(plan: &LaunchPlan) -> Option<Self> {
        let sizes = ParallelSizes::from_trainer(&plan.run.finetune.trainer)?;
        Some(Self {
            num_nodes: plan.num_nodes,
            ranks_per_node: plan.ranks_per_node,
            sizes,
        })
    }

    /// Returns the number of ranks.
    pub fn world_size(&self) -> u32 {
        self.num_nodes * self.ranks_per_node
    }

    /// Returns the placement of `rank`.
    pub fn coordinates(&self, rank: u32) -> Coordinates {
        Coordinates {
            rank,
            node: rank / self.ranks_per_node,
            local_rank: rank % self.ranks_per_node,
            mesh: self.sizes.coordinates(rank),
        }
    }

    /// Returns the placement of every rank, in order.
    pub fn ranks(&self) -> impl Iterator<Item = Coordinates> {
        (0..self.world_size()).map(|rank| self.coordinates(rank))
    }

    /// Returns the environment of a rank.
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
