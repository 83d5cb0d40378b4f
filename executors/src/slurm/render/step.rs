//! The command lines of srun.

use std::path::Path;

use neva_schemas::{PLAN_FILE, SlurmExecutorConfig};

use super::{
    container::Container,
    profiler,
    shape::Shape,
    text::{Words, path_text},
    work::{SCRIPT_FILE, Work},
};
use crate::error::ExecutorError;

/// First version of Slurm whose steps do not share their resources by default.
const OVERLAP: (u32, u32) = (20, 11);
/// First version of Slurm that says `het-group` for `pack-group`.
const HET_GROUP: (u32, u32) = (20, 2);

/// A step: one task of an experiment on all its nodes. The script's variable `dir` is the task's folder, and its working
/// directory is that of the step.
pub(super) struct Step<'a> {
    pub(super) config: &'a SlurmExecutorConfig,
    pub(super) work: Work<'a>,
    pub(super) shape: Shape,
    pub(super) rank_program: &'a Path,
    /// Component of a heterogeneous job.
    pub(super) component: Option<u32>,
    /// Other steps use the same nodes.
    pub(super) shares_nodes: bool,
}

impl Step<'_> {
    /// Returns the lines before the command, and the command.
    pub(super) fn render(&self) -> Result<(String, String), ExecutorError> {
        let Self { config, work, shape, .. } = self;
        let has_gpus = shape.gpus_per_node > 0 || config.gres.is_some() || config.gpus_per_task.is_some();
        let container = Container::new(config, *work, self.rank_program, has_gpus)?;
        let mut words = Words::default();
        words.word("srun");
        if let Some(component) = self.component {
            let name = if config.is_older_than(HET_GROUP) {
                "pack-group"
            } else {
                "het-group"
            };
            words.word(format!("--{name}={component}"));
        }
        words.word(format!("--nodes={}", shape.nodes));
        words.word(format!("--ntasks={}", shape.tasks()));
        words.word(format!("--ntasks-per-node={}", shape.tasks_per_node));
        // Since Slurm 22.05, srun does not inherit it from sbatch.
        words.words(config.cpus_per_task.map(|cpus| format!("--cpus-per-task={cpus}")));
        // Ranks are numbered node by node.
        words.words(["--distribution=block", "--export=ALL", "--kill-on-bad-exit=1"]);
        if let Work::Ranks(plan) = work {
            words.word(format!("--wait={}", plan.run.finetune.trainer.timeout_s));
        }
        if self.shares_nodes {
            words.words(overlap(config));
        }
        // A requeued job continues the logs, so that a reader's offsets stay valid.
        words.word("--open-mode=append");
        words.shell("--output=\"$dir/logs/rank%t.log\"");
        if let Some(container) = &container {
            container.srun_options(&mut words);
        }
        words.words(config.srun_args.iter().flatten());
        words.end_options();

        let mut before = container.as_ref().map(Container::exports).unwrap_or_default();
        let profiler = profiler::settings(config).filter(|_| matches!(work, Work::Ranks(_)));
        before += &profiler.map(profiler::before).unwrap_or_default();
        if let Work::Ranks(_) = work {
            words.words(["sh", "-c"]);
            words.shell("\"$rank\"");
            words.word("rank");
        }
        if let Some(container) = &container {
            container.prefix(&mut words);
        }
        if let Some(settings) = profiler {
            profiler::prefix(settings, &mut words);
        }
        match work {
            Work::Ranks(_) => {
                words.words([&path_text(self.rank_program)?, "train", "--plan"]);
                words.shell(format!("\"$dir/{PLAN_FILE}\""));
            }
            Work::Script(script) => {
                words.words(&script.entrypoint);
                words.shell(format!("\"$dir/{SCRIPT_FILE}\""));
                words.words(&script.args);
            }
        }
        Ok((before, words.lines()))
    }
}

/// Returns the option with which a step shares the resources of others, if this Slurm has it.
fn overlap(config: &SlurmExecutorConfig) -> Option<&'static str> {
    (!config.is_older_than(OVERLAP)).then_some("--overlap")
}

/// Returns the line that starts a component of a heterogeneous job.
pub(super) fn component_line(config: &SlurmExecutorConfig) -> &'static str {
    match config.is_older_than(HET_GROUP) {
        true => "#SBATCH packjob\n",
        false => "#SBATCH hetjob\n",
    }
}

/// Returns the command that records the GPUs' memory on each node, if it is wanted.
pub(super) fn memory_recorder(config: &SlurmExecutorConfig, shape: Shape) -> Option<String> {
    if !config.memory_measure {
        return None;
    }
    let mut words = Words::default();
    words.word("srun");
    words.word(format!("--nodes={}", shape.nodes));
    words.word(format!("--ntasks={}", shape.nodes));
    words.word("--ntasks-per-node=1");
    words.words(overlap(config));
    words.shell("--output=\"$dir/logs/memory%n.csv\"");
    words.end_options();
    words.words([
        "nvidia-smi",
        "--query-gpu=timestamp,index,memory.total,memory.free,memory.used",
        "--format=csv",
        "--loop=1",
    ]);
    Some(words.lines())
}
