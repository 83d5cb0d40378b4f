//! Environment of a rank, read from torchrun's variables, which our own launcher sets too, or from srun's.

use crate::contract::env;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Rank, world size and rendezvous of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankEnv {
    /// Rank in the world.
    pub rank: u32,
    /// Number of ranks.
    pub world_size: u32,
    /// Rank on its node.
    pub local_rank: u32,
    /// Number of ranks on this node.
    pub local_world_size: u32,
    /// Host of the rendezvous store.
    pub master_addr: String,
    /// Port of the rendezvous store.
    pub master_port: u16,
    /// True if the launcher's agent serves the store (torchrun), so that rank 0 must not.
    pub agent_store: bool,
    /// Number of restarts of the ranks by the launcher's agent; each attempt uses its own keys in the store.
    pub restart_count: u32,
    /// Starter whose variables were read.
    pub starter: Starter,
}

/// Program that started the ranks, known by its variables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Starter {
    /// torchrun, or a launcher that sets its variables.
    #[default]
    Torchrun,
    /// Slurm's srun.
    Srun,
}

impl fmt::Display for Starter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Torchrun => "torchrun",
            Self::Srun => "srun",
        })
    }
}

impl RankEnv {
    /// Returns the environment of a single rank without a rendezvous.
    pub fn single() -> Self {
        Self {
            rank: 0,
            world_size: 1,
            local_rank: 0,
            local_world_size: 1,
            master_addr: "127.0.0.1".into(),
            master_port: 0,
            agent_store: false,
            restart_count: 0,
            starter: Starter::Torchrun,
        }
    }

    /// Reads the variables through `lookup`: torchrun's, else those of a job step with several tasks. Returns `Ok(None)` if
    /// neither is set; a batch script without srun and `srun --ntasks=1` do not count.
    ///
    /// # Errors
    /// An error message, if some variables are missing or are not numbers.
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, String> {
        let variables = Variables(&lookup);
        if lookup(env::RANK).is_some() || lookup(env::WORLD_SIZE).is_some() {
            variables.torchrun().map(Some)
        } else if variables.number_or(env::SLURM_STEP_NUM_TASKS, 1)? > 1 {
            variables.srun().map(Some)
        } else {
            Ok(None)
        }
    }

    /// Returns the variables that a launcher sets for this rank.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            (env::RANK, self.rank.to_string()),
            (env::WORLD_SIZE, self.world_size.to_string()),
            (env::LOCAL_RANK, self.local_rank.to_string()),
            (env::LOCAL_WORLD_SIZE, self.local_world_size.to_string()),
            (env::MASTER_ADDR, self.master_addr.clone()),
            (env::MASTER_PORT, self.master_port.to_string()),
        ]
    }
}

struct Variables<'a, F>(&'a F);

impl<F: Fn(&str) -> Option<String>> Variables<'_, F> {
    fn torchrun(&self) -> Result<RankEnv, String> {
        let required = [env::RANK, env::WORLD_SIZE, env::MASTER_ADDR, env::MASTER_PORT];
        let missing: Vec<_> = required.iter().copied().filter(|name| self.text(name).is_none()).collect();
        if !missing.is_empty() {
            return Err(format!(
                "torchrun's variables {missing:?} are not set, all of {required:?} are needed"
            ));
        }
        let (rank, world_size) = self.rank_and_size(env::RANK, env::WORLD_SIZE)?;
        let agent = self.text(env::TORCHELASTIC_USE_AGENT_STORE);
        Ok(RankEnv {
            rank,
            world_size,
            local_rank: self.number_or(env::LOCAL_RANK, rank)?,
            local_world_size: self.number_or(env::LOCAL_WORLD_SIZE, world_size)?,
            master_addr: self.text(env::MASTER_ADDR).unwrap_or_default(),
            master_port: self.port(env::MASTER_PORT)?.unwrap_or_default(),
            agent_store: agent.is_some_and(|text| text.eq_ignore_ascii_case("true") || text == "1"),
            restart_count: self.number_or(env::TORCHELASTIC_RESTART_COUNT, 0)?,
            starter: Starter::Torchrun,
        })
    }

    /// Reads srun's variables. The store is on the step's first node, where task 0 runs. `MASTER_ADDR` and `MASTER_PORT`
    /// take precedence, as scripts for torch set them.
    fn srun(&self) -> Result<RankEnv, String> {
        let (rank, world_size) = self.rank_and_size(env::SLURM_PROCID, env::SLURM_STEP_NUM_TASKS)?;
        let node = self.number_or(env::SLURM_NODEID, 0)?;
        let tasks = self.text(env::SLURM_STEP_TASKS_PER_NODE).unwrap_or_else(|| world_size.to_string());
        let local_world_size = tasks_of_node(&tasks, node).ok_or_else(|| {
            format!(
                "{}={tasks:?} does not contain the tasks of node {node}",
                env::SLURM_STEP_TASKS_PER_NODE
            )
        })?;
        let nodes = self.text(env::SLURM_STEP_NODELIST);
        let master_addr = self
            .text(env::MASTER_ADDR)
            .or_else(|| nodes.as_deref().and_then(first_node))
            .ok_or_else(|| format!("{}={nodes:?} names no node: set {}", env::SLURM_STEP_NODELIST, env::MASTER_ADDR))?;
        let master_port = match self.port(env::MASTER_PORT)? {
            Some(port) => port,
            None => self.step_port()?,
        };
        Ok(RankEnv {
            rank,
            world_size,
            local_rank: self.number_or(env::SLURM_LOCALID, rank)?,
            local_world_size,
            master_addr,
            master_port,
            agent_store: false,
            restart_count: 0,
            starter: Starter::Srun,
        })
    }

    /// Returns a port that all tasks of the step compute alike: one that Slurm reserves for the step, or else one derived
    /// from job and step, so that steps on one node rarely collide. It is below the system's ephemeral ports.
    fn step_port(&self) -> Result<u16, String> {
        if let Some(reserved) = self.text(env::SLURM_STEP_RESV_PORTS)
            && let Some(port) = reserved.split(['-', ',']).next().and_then(|port| port.parse().ok())
        {
            return Ok(port);
        }
        let job = u64::from(self.number_or(env::SLURM_JOB_ID, 0)?);
        let step = u64::from(self.number_or(env::SLURM_STEP_ID, 0)?);
        // 7919 is a prime: ports of consecutive jobs are far apart, so steps of one do not reach the next.
        Ok((12_000 + (job * 7919 + step) % 16_000) as u16)
    }

    fn rank_and_size(&self, rank: &str, world_size: &str) -> Result<(u32, u32), String> {
        let (number, count) = (self.number(rank)?, self.number(world_size)?);
        if count == 0 || number >= count {
            return Err(format!("{rank}={number} is not below {world_size}={count}"));
        }
        Ok((number, count))
    }

    fn text(&self, name: &str) -> Option<String> {
        (self.0)(name)
    }

    fn number(&self, name: &str) -> Result<u32, String> {
        let text = self.text(name).ok_or_else(|| format!("{name} is not set"))?;
        text.parse().map_err(|_| format!("{name}={text:?} is not a number"))
    }

    fn number_or(&self, name: &str, default: u32) -> Result<u32, String> {
        if self.text(name).is_some() {
            self.number(name)
        } else {
            Ok(default)
        }
    }

    fn port(&self, name: &str) -> Result<Option<u16>, String> {
        self.text(name)
            .map(|text| text.parse().map_err(|_| format!("{name}={text:?} is not a port")))
            .transpose()
    }
}

/// Returns the number of tasks of a node: for node 3 of `2(x3),1` it is 1.
fn tasks_of_node(tasks: &str, node: u32) -> Option<u32> {
    let mut before = 0;
    for group in tasks.split(',') {
        let (count, nodes) = match group.split_once("(x") {
            Some((count, nodes)) => (count, nodes.strip_suffix(')')?.parse().ok()?),
            None => (group, 1_u32),
        };
        before = u32::saturating_add(before, nodes);
        if node < before {
            return count.parse().ok();
        }
    }
    None
}

/// Returns the first host of Slurm's node list: `n1` for `n[1-3,7],m4`.
fn first_node(list: &str) -> Option<String> {
    let mut name = String::new();
    let mut rest = list;
    loop {
        let end = rest.find(['[', ',']).unwrap_or(rest.len());
        name.push_str(&rest[..end]);
        let Some(ranges) = rest[end..].strip_prefix('[') else { break };
        let (ranges, after) = ranges.split_once(']')?;
        name.push_str(ranges.split(['-', ',']).next()?);
        rest = after;
    }
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads the variables that Slurm 22.05 sets for the third of three tasks on two nodes, changed by `change`.
    fn third_of_three(change: &[(&str, Option<&str>)]) -> Result<Option<RankEnv>, String> {
        let mut variables = std::collections::BTreeMap::from([
            (env::SLURM_JOB_ID, "17"),
            (env::SLURM_STEP_ID, "2"),
            (env::SLURM_PROCID, "2"),
            (env::SLURM_LOCALID, "0"),
            (env::SLURM_NODEID, "1"),
            (env::SLURM_STEP_NUM_TASKS, "3"),
            (env::SLURM_STEP_TASKS_PER_NODE, "2,1"),
            (env::SLURM_STEP_NODELIST, "n[1-2]"),
        ]);
        for (name, value) in change {
            match value {
                Some(value) => drop(variables.insert(name, value)),
                None => drop(variables.remove(name)),
            }
        }
        RankEnv::read(|name| variables.get(name).map(ToString::to_string))
    }

    #[test]
    fn a_task_of_srun_is_a_rank() {
        let rank = third_of_three(&[]).unwrap().unwrap();
        let expected = RankEnv {
            rank: 2,
            world_size: 3,
            local_rank: 0,
            local_world_size: 1,
            master_addr: "n1".into(),
            master_port: rank.master_port,
            agent_store: false,
            restart_count: 0,
            starter: Starter::Srun,
        };
        assert_eq!(rank, expected);
        let port = |change: &[_]| third_of_three(change).unwrap().unwrap().master_port;
        assert!((12_000..28_000).contains(&rank.master_port));
        // The first task computes the same port; other steps and jobs compute different ones.
        assert_eq!(
            port(&[(env::SLURM_PROCID, Some("0")), (env::SLURM_NODEID, Some("0"))]),
            rank.master_port
        );
        assert_ne!(port(&[(env::SLURM_STEP_ID, Some("3"))]), rank.master_port);
        assert_ne!(port(&[(env::SLURM_JOB_ID, Some("18"))]), rank.master_port);
        assert_eq!(port(&[(env::SLURM_STEP_RESV_PORTS, Some("12000-12003"))]), 12_000);
        assert_eq!(port(&[(env::MASTER_PORT, Some("29500"))]), 29_500);
        let named = third_of_three(&[(env::MASTER_ADDR, Some("login"))]).unwrap().unwrap();
        assert_eq!(named.master_addr, "login");
    }

    #[test]
    fn ignores_single_tasks_of_srun() {
        for change in [(env::SLURM_STEP_NUM_TASKS, None), (env::SLURM_STEP_NUM_TASKS, Some("1"))] {
            assert_eq!(third_of_three(&[change]), Ok(None), "{change:?}");
        }
        // torchrun within a task counts.
        let torchrun = [
            (env::RANK, Some("0")),
            (env::WORLD_SIZE, Some("1")),
            (env::MASTER_ADDR, Some("h")),
            (env::MASTER_PORT, Some("1")),
        ];
        assert_eq!(third_of_three(&torchrun).unwrap().unwrap().starter, Starter::Torchrun);
        for (name, value) in [
            (env::SLURM_PROCID, None),
            (env::SLURM_PROCID, Some("3")),
            (env::SLURM_STEP_NUM_TASKS, Some("many")),
            (env::SLURM_STEP_TASKS_PER_NODE, Some("3")),
            (env::SLURM_STEP_NODELIST, Some("")),
            (env::MASTER_PORT, Some("65536")),
        ] {
            let error = third_of_three(&[(name, value)]).unwrap_err();
            assert!(error.contains(name), "{name}: {error}");
        }
    }

    #[test]
    fn finds_the_first_node_of_a_list() {
        let cases = [
            ("n1", "n1"),
            ("n[1-2]", "n1"),
            ("gpu[007,010-012]", "gpu007"),
            ("rack[0-1]n[03-04]-ib,login", "rack0n03-ib"),
            ("a-1.cluster.org,b", "a-1.cluster.org"),
            ("[1-4]", "1"),
        ];
        for (list, first) in cases {
            assert_eq!(first_node(list).as_deref(), Some(first), "{list}");
        }
        for list in ["", ",n1", "n[1-2"] {
            assert_eq!(first_node(list), None, "{list}");
        }
    }

    #[test]
    fn counts_the_tasks_of_a_node() {
        for (node, tasks) in [Some(2), Some(2), Some(2), Some(1), Some(16), Some(16), None]
            .into_iter()
            .enumerate()
        {
            assert_eq!(tasks_of_node("2(x3),1,16(x2)", node as u32), tasks, "node {node}");
        }
        for odd in ["", "x", "2(x", "2(x3", "(x3)", "2(xa)"] {
            assert_eq!(tasks_of_node(odd, 0), None, "{odd}");
        }
    }
}
