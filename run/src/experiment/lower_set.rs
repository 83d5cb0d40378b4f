//! Lowering of tasks that become one job.

use neva_executors::{Submission, TaskSet, TaskSetKind};

use super::{
    lower::{Job, Lowering},
    record::ExperimentRecord,
    task_sets::Members,
};
use crate::error::RunError;

impl Lowering {
    /// Renders the job of several tasks, each of which was lowered: `jobs` holds them in the order of `members`.
    ///
    /// # Errors
    /// The tasks cannot be one job.
    pub(super) fn render_set(&self, record: &ExperimentRecord, members: &Members, jobs: &[&Job]) -> Result<Submission, RunError> {
        let experiment = &record.experiment;
        let entries = || members.tasks.iter().filter_map(|task| experiment.tasks.get_index(*task));
        let names: Vec<&str> = entries().map(|(name, _)| name.as_str()).collect();
        let (Some(first), Some(job)) = (names.first(), jobs.first()) else {
            return Err(RunError::Argument("a job of several tasks has no tasks".to_owned()));
        };
        let group = experiment.group_of(first).filter(|_| members.kind == TaskSetKind::Group);
        // The same for the same tasks, so that another launcher finds the job.
        let hash = blake3::hash(names.join("/").as_bytes()).to_hex();
        let folder = format!("{}-{}", group.unwrap_or(first), &hash[..8]);
        let executors = entries().map(|(_, task)| task.executor.as_ref().unwrap_or(&record.executor));
        let tasks: Vec<_> = executors.zip(jobs.iter().map(|job| job.plan.work())).collect();
        let submission = job.executor.render_tasks(&TaskSet {
            name: group.unwrap_or(&experiment.name),
            dir: &self.dir(record, &*job.executor).join("jobs").join(folder),
            kind: members.kind,
            tasks: &tasks,
        })?;
        Ok(submission)
    }
}
