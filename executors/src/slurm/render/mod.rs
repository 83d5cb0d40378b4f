//! Renders jobs as batch scripts: pure text, the same for the same input.
//!
//! | file | content |
//! |---|---|
//! | `directives.rs` | the `#SBATCH` lines |
//! | `environment.rs` | variables, modules and setup lines |
//! | `step.rs`, `container.rs`, `profiler.rs` | the command lines of srun |
//! | `task_list.rs` | the list of the tasks of a job |
//! | `batch.rs` | the script of one task |
//! | `array.rs`, `group.rs` | many tasks in one array, several tasks in one allocation |
//! | `bash/*.sh` | functions of the script |
//!
//! The script leaves these files in the job's folder:
//!
//! | file | content |
//! |---|---|
//! | `slurm.status` | `JOBID RESTARTS CODE`, written at the end |
//! | `slurm.requeues` | `JOBID REASON` for each requeue by the script |
//! | `logs/rank<R>.log`, `logs/slurm.log` | output of the tasks, and of the script itself |
//!
//! It reads `cancel`, in which a line `JOBID SIGNAL` is a request to stop.

mod array;
mod batch;
mod container;
mod directives;
mod environment;
mod group;
mod profiler;
mod shape;
mod step;
mod task_list;
mod text;
mod work;

use std::path::Path;

use neva_schemas::{ExecutorConfig, LaunchPlan, ScriptPlan, SlurmExecutorConfig};

pub use array::render_array;
pub use group::{GroupTask, render_group};
pub use work::Work;

use self::text::refused;
use crate::{
    error::ExecutorError,
    submission::Submission,
    task_set::{TaskSet, TaskSetKind},
};

/// File of the batch script in the job's folder.
pub const BATCH_FILE: &str = "job.sbatch";

/// Renders the job of a plan, whose ranks are `rank_program`.
///
/// # Errors
/// The plan does not fit the executor's settings.
pub fn render(config: &SlurmExecutorConfig, plan: &LaunchPlan, rank_program: &Path) -> Result<Submission, ExecutorError> {
    batch::render(config, Work::Ranks(plan), rank_program)
}

/// Renders the job of a script.
///
/// # Errors
/// As [`render`].
pub fn render_script(config: &SlurmExecutorConfig, script: &ScriptPlan) -> Result<Submission, ExecutorError> {
    batch::render(config, Work::Script(script), Path::new(""))
}

/// Renders the job of several tasks. `config` holds for all tasks of an array; those of a group have their own.
///
/// # Errors
/// The tasks cannot be one job, or do not fit their executors' settings.
pub fn render_tasks(config: &SlurmExecutorConfig, set: &TaskSet<'_>, rank_program: &Path) -> Result<Submission, ExecutorError> {
    match set.kind {
        TaskSetKind::Array { cap } => {
            let tasks: Vec<_> = set.tasks.iter().map(|(_, work)| *work).collect();
            render_array(config, set.name, set.dir, &tasks, cap, rank_program)
        }
        TaskSetKind::Group => {
            let mut tasks = Vec::new();
            for (executor, work) in set.tasks {
                let ExecutorConfig::Slurm(config) = executor else {
                    return Err(refused(
                        "a group has tasks of several executors, which cannot share a job",
                        "give all its tasks the same executor",
                    ));
                };
                tasks.push(GroupTask { config, work: *work });
            }
            render_group(set.name, set.dir, &tasks, rank_program)
        }
    }
}
