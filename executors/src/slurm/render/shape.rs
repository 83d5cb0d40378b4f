//! Nodes, tasks and GPUs of a job.

use neva_schemas::{Accelerator, SlurmExecutorConfig, SlurmParameter};

use super::{text::refused, work::Work};
use crate::error::ExecutorError;

/// First version of Slurm with options for GPUs.
const GPU_OPTIONS: (u32, u32) = (19, 5);
/// First version of Slurm with `--segment`.
const SEGMENT: (u32, u32) = (23, 11);

/// Nodes, tasks and GPUs of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) nodes: u32,
    pub(super) tasks_per_node: u32,
    /// GPUs to request on each node; 0: none.
    pub(super) gpus_per_node: u32,
}

impl Shape {
    /// Returns the shape of a task.
    ///
    /// # Errors
    /// The config contradicts the run.
    pub(super) fn new(config: &SlurmExecutorConfig, work: Work<'_>) -> Result<Self, ExecutorError> {
        let shape = match work {
            Work::Ranks(plan) => Self::of_ranks(config, plan)?,
            Work::Script(_) => Self {
                nodes: config.nodes.unwrap_or(1),
                tasks_per_node: config.ntasks_per_node.unwrap_or(1),
                gpus_per_node: config.gpus_per_node.unwrap_or(0),
            },
        };
        if config.segment.is_some() && config.is_older_than(SEGMENT) {
            return Err(refused(
                "`executor.segment` needs Slurm 23.11, but `executor.slurm_version` is older",
                "remove one of them",
            ));
        }
        let options = [config.gpus_per_task, config.cpus_per_gpu];
        if config.is_older_than(GPU_OPTIONS) && (options.iter().any(Option::is_some) || config.mem_per_gpu.is_some()) {
            return Err(refused(
                "`gpus_per_task`, `cpus_per_gpu` and `mem_per_gpu` of the executor need Slurm 19.05, but `executor.slurm_version` is older",
                "use `gres`, `cpus_per_task` and `mem`",
            ));
        }
        Ok(shape)
    }

    fn of_ranks(config: &SlurmExecutorConfig, plan: &neva_schemas::LaunchPlan) -> Result<Self, ExecutorError> {
        let (nodes, ranks) = (plan.num_nodes, plan.ranks_per_node);
        let written = [
            ("nodes", config.nodes, nodes, "nodes", "num_nodes"),
            (
                "ntasks_per_node",
                config.ntasks_per_node,
                ranks,
                "ranks on each node",
                "num_gpus_per_node",
            ),
            (
                "torchrun_nproc_per_node",
                config.torchrun_nproc_per_node,
                ranks,
                "ranks on each node",
                "num_gpus_per_node",
            ),
        ];
        for (field, value, of_run, what, argument) in written {
            // NeMo-Run's torchrun starts all ranks of a node from one task.
            let is_torchrun = field == "ntasks_per_node" && value == Some(1) && config.torchrun_nproc_per_node == Some(ranks);
            if let Some(value) = value
                && value != of_run
                && !is_torchrun
            {
                return Err(refused(
                    &format!("`executor.{field}` is {value}, but the run has {of_run} {what}"),
                    &format!("remove `{field}` from the executor, or add `--set {argument}={value}`"),
                ));
            }
        }
        let uses_gpus = plan.run.finetune.trainer.accelerator == Accelerator::Gpu;
        let by_task = config.gpus_per_task.map(|gpus| gpus * ranks);
        let available = config.gpus().or(by_task);
        if let Some(gpus) = available.filter(|gpus| uses_gpus && *gpus > 0 && *gpus < ranks) {
            return Err(refused(
                &format!("the run has {ranks} ranks on each node, but the executor requests {gpus} GPUs"),
                &format!("add `--set executor.gpus_per_node={ranks}`, or `--set num_gpus_per_node={gpus}`"),
            ));
        }
        let default = if uses_gpus && config.gres.is_none() && config.gpus_per_task.is_none() {
            ranks
        } else {
            0
        };
        Ok(Self {
            nodes,
            tasks_per_node: ranks,
            gpus_per_node: config.gpus_per_node.unwrap_or(default),
        })
    }

    pub(super) fn tasks(self) -> u32 {
        self.nodes * self.tasks_per_node
    }

    /// Returns the option that requests GPUs, by the version of Slurm.
    pub(super) fn gpu_option(self, config: &SlurmExecutorConfig) -> Option<(&'static str, SlurmParameter)> {
        let gpus = self.gpus_per_node;
        if gpus == 0 {
            return None;
        }
        Some(match config.is_older_than(GPU_OPTIONS) {
            true if config.gres.is_some() => return None,
            true => ("gres", SlurmParameter::Text(format!("gpu:{gpus}"))),
            false => ("gpus-per-node", SlurmParameter::Text(gpus.to_string())),
        })
    }
}
