//! Pods, ranks and GPUs of a job, and what they require of the volumes.

use neva_schemas::{Accelerator, KubernetesExecutorConfig, KubernetesKind, LaunchPlan};

use super::{RUNS, refused, work::Work};
use crate::error::ExecutorError;

/// Pods, ranks and GPUs of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) pods: u32,
    pub(super) ranks_per_pod: u32,
    /// GPUs of each pod; 0: none.
    pub(super) gpus_per_pod: u32,
}

impl Shape {
    /// Returns the shape of a job.
    ///
    /// # Errors
    /// The config contradicts the work.
    pub(super) fn new(config: &KubernetesExecutorConfig, work: Work<'_>) -> Result<Self, ExecutorError> {
        let shape = match work {
            Work::Ranks(plan) => Self::of_ranks(config, plan)?,
            Work::Script(_) => Self {
                pods: 1,
                ranks_per_pod: 1,
                gpus_per_pod: config.gpus_per_node.unwrap_or(0),
            },
        };
        shape.check_retries(config)?;
        shape.check_volumes(config, work)?;
        Ok(shape)
    }

    fn of_ranks(config: &KubernetesExecutorConfig, plan: &LaunchPlan) -> Result<Self, ExecutorError> {
        let (nodes, ranks) = (plan.num_nodes, plan.ranks_per_node);
        let uses_gpus = plan.run.finetune.trainer.accelerator == Accelerator::Gpu;
        let gpus = config.gpus_per_node.unwrap_or(if uses_gpus { ranks } else { 0 });
        if uses_gpus && gpus < ranks {
            return Err(refused(
                format!("the run has {ranks} ranks on each node, but the executor requests {gpus} GPUs"),
                format!("add `--set executor.gpus_per_node={ranks}`, or `--set num_gpus_per_node={gpus}`"),
            ));
        }
        if !config.one_rank_per_pod {
            return Ok(Self {
                pods: nodes,
                ranks_per_pod: ranks,
                gpus_per_pod: gpus,
            });
        }
        if !gpus.is_multiple_of(ranks) {
            return Err(refused(
                format!("{gpus} GPUs of a node cannot be divided among {ranks} pods of one rank each"),
                format!("add `--set executor.gpus_per_node={ranks}`"),
            ));
        }
        Ok(Self {
            pods: nodes * ranks,
            ranks_per_pod: 1,
            gpus_per_pod: gpus / ranks,
        })
    }

    fn check_retries(self, config: &KubernetesExecutorConfig) -> Result<(), ExecutorError> {
        if config.backoff_limit_per_index.is_some() && self.pods > 1 {
            return Err(refused(
                "`executor.backoff_limit_per_index` restarts a pod alone, but all ranks of a run have to restart together",
                "set `executor.retries` instead",
            ));
        }
        if config.kind == KubernetesKind::Job && config.succeed_with_rank_0 && self.pods == 1 {
            return Err(refused(
                "`executor.succeed_with_rank_0` has no effect on a job of one pod",
                "remove it",
            ));
        }
        Ok(())
    }

    /// Checks that what ranks write is there for their peers and for a restart.
    fn check_volumes(self, config: &KubernetesExecutorConfig, work: Work<'_>) -> Result<(), ExecutorError> {
        let dir = work.dir_text()?;
        if config.runs_dir().is_none() && dir.starts_with(RUNS) {
            return match (self.pods, config.retries) {
                (1, 0) => Ok(()),
                (1, _) => Err(refused(
                    "a retry finds no checkpoint, because the run's folder is lost with its pod",
                    "add a volume with `claim`, `nfs` or `host_path` to `executor.volumes`, or remove `retries`",
                )),
                (pods, _) => Err(refused(
                    format!("the run has {pods} pods, but they share no folder for their checkpoints"),
                    "add a volume with `claim`, `nfs` or `host_path` to `executor.volumes`",
                )),
            };
        }
        match config.volume_of(&dir) {
            None => Err(refused(
                format!("the run's folder {dir} is in no volume of the executor, so it would be lost with its pod"),
                match config.runs_dir() {
                    Some(runs) => format!("name a folder in {runs} with `--set dir=...`"),
                    None => "add a volume to `executor.volumes`".to_owned(),
                },
            )),
            Some(volume) if volume.read_only => Err(refused(
                format!("the run's folder {dir} is in a volume that is read only"),
                "remove `read_only`, or name another folder with `--set dir=...`",
            )),
            Some(volume) if !volume.is_shared() && (self.pods > 1 || config.retries > 0) => Err(refused(
                format!("the run's folder {dir} is in a volume that no other pod sees, and that is lost with its pod"),
                "use a volume with `claim`, `nfs` or `host_path`",
            )),
            Some(_) => Ok(()),
        }
    }
}
