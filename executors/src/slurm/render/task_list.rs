//! The list of the tasks of a job, which the batch script and the submission read.

use std::fmt::Write as _;

use super::{text::job_folder, work::Work};
use crate::{
    error::ExecutorError,
    submission::{BatchTask, JobKind},
};

/// File with a line `STEPS SUFFIX KIND FOLDER` for each task; `-` stands for an unknown number of steps.
pub(super) const TASKS_FILE: &str = "tasks.txt";

/// Returns the lines of the file.
///
/// # Errors
/// A folder has a name that Slurm would read otherwise.
pub(super) fn task_lines(tasks: &[Work<'_>], batch_tasks: &[BatchTask]) -> Result<String, ExecutorError> {
    let mut text = String::new();
    for (work, task) in tasks.iter().zip(batch_tasks) {
        let steps = match work {
            Work::Ranks(plan) => plan.run.finetune.trainer.max_steps,
            Work::Script(_) => None,
        };
        let steps = steps.map_or_else(|| "-".to_owned(), |steps| steps.to_string());
        let kind = match task.kind {
            JobKind::Ranks => "ranks",
            JobKind::Script => "script",
        };
        let _ = writeln!(text, "{steps} {} {kind} {}", task.suffix, job_folder(&task.dir)?);
    }
    Ok(text)
}
