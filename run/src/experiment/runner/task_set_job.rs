//! The job of several tasks: one submission, and for each task a job of its own that watches its handle.

use neva_executors::{BatchScript, JobHandle, Payload, Submission, TaskSetKind};
use neva_schemas::When;
use tokio::sync::oneshot;

use super::{
    super::{lower::Job, report::TaskState, task_sets::Members},
    Runner,
    task_job::First,
};
use crate::error::RunError;

impl Runner {
    /// Returns the tasks of `index`'s set that may be submitted together now, if several may. `candidates` are pending tasks
    /// that are ready, or wait for the same jobs.
    pub(super) fn joined(&self, index: usize, candidates: &[usize]) -> Option<Members> {
        let set = self.sets.of(index)?;
        let is_new = |task: &usize| candidates.contains(task) && self.attached[*task].is_none() && !self.undecided.contains(task);
        let tasks: Vec<_> = set.tasks.iter().copied().filter(is_new).collect();
        let executor = self.lowering.executor(&self.record, &self.record.experiment.tasks[index]).ok()?;
        if tasks.len() < 2 || !tasks.contains(&index) || !executor.joins_tasks() {
            return None;
        }
        // The cap of an array counts its own tasks only.
        let is_limited = set.kind != TaskSetKind::Group && self.record.experiment.max_parallel.is_some();
        if is_limited && self.resources.running() > 0 {
            return None;
        }
        Some(Members { kind: set.kind, tasks })
    }

    /// Starts tasks as one job that its executor holds back until the jobs `after` have ended. Returns false if a task did not
    /// start.
    pub(super) async fn start_set(&mut self, members: Members, after: Vec<(JobHandle, When)>) -> bool {
        let mut lowered: Vec<(usize, Job)> = Vec::new();
        let mut all_started = true;
        for index in members.tasks {
            match self.lower(index, false, after.is_empty()).await {
                Ok(job) => lowered.push((index, job)),
                Err(error) => {
                    self.fail(index, error);
                    all_started = false;
                    // A group starts as a whole.
                    if members.kind == TaskSetKind::Group {
                        lowered.into_iter().for_each(|(index, _)| self.resources.release(index));
                        return false;
                    }
                }
            }
        }
        let Some((_, job)) = lowered.first() else { return false };
        let executor = job.executor.clone();
        let members = Members {
            kind: members.kind,
            tasks: lowered.iter().map(|(index, _)| *index).collect(),
        };
        let jobs: Vec<_> = lowered.iter().map(|(_, job)| job).collect();
        let submission = self.lowering.render_set(&self.record, &members, &jobs);
        let submission = submission.and_then(|submission| {
            for (index, job) in &lowered {
                let shown = of_task(&submission, &job.submission);
                self.lowering.folder.write_submission(&self.tasks[*index].name, &shown)?;
            }
            Ok(submission)
        });
        let submission = match submission {
            Ok(submission) => submission,
            Err(error) => {
                let failure = error.into_failure();
                for (index, _) in lowered {
                    self.resources.release(index);
                    self.end(index, TaskState::Failed(Box::new(failure.clone())), None);
                }
                return false;
            }
        };
        let mut senders = Vec::new();
        for (index, job) in lowered {
            let (sender, receiver) = oneshot::channel();
            senders.push(sender);
            self.spawn(index, job, First::Shared(receiver));
        }
        self.jobs.spawn(async move {
            match executor.submit_tasks(&submission, &after).await {
                Ok(jobs) => {
                    for (sender, job) in senders.into_iter().zip(jobs) {
                        // A launcher that was stopped does not wait any more.
                        let _ = sender.send(Ok(job));
                    }
                }
                Err(error) => {
                    let failure = RunError::from(error).into_failure();
                    for sender in senders {
                        let _ = sender.send(Err(failure.clone()));
                    }
                }
            }
        });
        all_started
    }
}

/// Returns what the record of a task shows of the submission of its set: its own files, and the command line.
fn of_task(set: &Submission, own: &Submission) -> Submission {
    let mut own = own.clone();
    if let (Payload::BatchScript(of_set), Payload::BatchScript(of_own)) = (&set.payload, &own.payload) {
        own.files.remove(&of_own.batch_script);
        own.payload = Payload::BatchScript(BatchScript {
            batch_script: set.dir.join(&of_set.batch_script),
            submit_argv: of_set.submit_argv.clone(),
            tasks: Vec::new(),
        });
    }
    own
}
