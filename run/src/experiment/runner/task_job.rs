//! The job of a task: its start, its resources and its messages to the event loop.

use std::sync::{Arc, PoisonError};

use neva_executors::{JobFailure, JobHandle, Submission};
use neva_schemas::{RunReport, When, env};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    super::{error::ExperimentError, event::Change, lower::Job, report::TaskState},
    Runner,
};
use crate::{
    environment,
    error::RunError,
    job::{self, JobOptions, Retry, StopRequests},
};

/// The first attempt at a task.
pub(super) enum First {
    /// It is submitted, after these jobs ended as required.
    Submit(Vec<(JobHandle, When)>),
    /// A job of an earlier launch, which is alive.
    Attached(JobHandle),
    /// It is submitted together with others.
    Shared(oneshot::Receiver<Result<JobHandle, JobFailure>>),
}

/// Message of a job to the event loop.
pub(super) enum Message {
    Submitted(u32, JobHandle),
    Retried(Retry),
    Ended(Box<Result<Option<RunReport>, RunError>>),
}

/// Guard that reports the end of a job even if its executor panics.
struct EndGuard {
    index: usize,
    sender: mpsc::UnboundedSender<(usize, Message)>,
    result: Option<Result<Option<RunReport>, RunError>>,
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        let result = self.result.take().unwrap_or_else(|| Err(ExperimentError::Executor.into()));
        // The experiment is over if nobody receives the message.
        let _ = self.sender.send((self.index, Message::Ended(Box::new(result))));
    }
}

impl Runner {
    /// Starts the job of a task. Returns false if that failed.
    pub(super) async fn start(&mut self, index: usize) -> bool {
        self.start_after(index, Vec::new()).await
    }

    /// Starts the job of a task that its executor holds back until the jobs `after` have ended. Returns false if that failed.
    pub(super) async fn start_after(&mut self, index: usize, after: Vec<(JobHandle, When)>) -> bool {
        let attached = self.attached[index].take();
        let lowered = self.lower(index, attached.is_some(), after.is_empty()).await.and_then(|lowered| {
            let written = self.lowering.folder.write_submission(&self.tasks[index].name, &lowered.submission);
            written.map(|()| lowered)
        });
        match lowered {
            Ok(lowered) => {
                let first = attached.map_or(First::Submit(after), First::Attached);
                self.spawn(index, lowered, first);
                true
            }
            Err(error) => {
                self.fail(index, error);
                false
            }
        }
    }

    /// Lowers a task that starts, and allocates its resources. `attached`: its job is running already. `starts_now`: no other
    /// job has to end first.
    pub(super) async fn lower(&mut self, index: usize, attached: bool, starts_now: bool) -> Result<Job, RunError> {
        let name = self.tasks[index].name.clone();
        let task = &self.record.experiment.tasks[index];
        // Files that its parents create are not there yet; the ranks check them.
        if !attached && starts_now && self.graph.has_parents(index) {
            self.lowering.preflight(&mut self.preflight, &self.record, &name, task)?;
        }
        let mut lowered = tokio::select! {
            job = self.lowering.job(&self.record, &name, task) => job?,
            () = job::give_up_submission(&self.requests) => {
                self.cancelled = true;
                return Err(RunError::NotSubmitted);
            }
        };
        self.assign_resources(index, attached, &mut lowered.submission);
        Ok(lowered)
    }

    /// Records that a task did not start.
    pub(super) fn fail(&mut self, index: usize, error: RunError) {
        self.resources.release(index);
        let state = match error {
            RunError::NotSubmitted => TaskState::Cancelled,
            error => TaskState::Failed(Box::new(error.into_failure())),
        };
        self.end(index, state, None);
    }

    /// Runs the job of a task. Its messages arrive at the event loop.
    pub(super) fn spawn(&mut self, index: usize, lowered: Job, first: First) {
        let (stop, requests) = watch::channel(StopRequests::default());
        let send = |sender: mpsc::UnboundedSender<_>| move |message| drop(sender.send((index, message)));
        let (submitted, retried) = (send(self.sender.clone()), send(self.sender.clone()));
        let options = JobOptions {
            retries: lowered.retries,
            output: self.output_of(&self.tasks[index].name),
            on_submit: Box::new(move |attempt, job| submitted(Message::Submitted(attempt, job.clone()))),
            on_retry: Box::new(move |retry| retried(Message::Retried(retry.clone()))),
            ..JobOptions::default()
        };
        let attempt = self.tasks[index].attempts.max(1);
        let sender = self.sender.clone();
        self.jobs.spawn(async move {
            let mut guard = EndGuard {
                index,
                sender,
                result: None,
            };
            let job = job::Job::new(&*lowered.executor, lowered.submission, options, requests).attempt(attempt);
            let job = match first {
                First::Submit(after) => job.after(after),
                First::Attached(handle) => job.submitted(Some(handle)),
                First::Shared(handle) => job.shared(handle),
            };
            guard.result = Some(job.run().await);
        });
        self.tasks[index].state = TaskState::Running;
        self.stops[index] = Some(stop);
    }

    /// Allocates the resources of a task that starts, and sets their variables in its processes. An attached job keeps
    /// the resources that it has.
    fn assign_resources(&mut self, index: usize, attached: bool, submission: &mut Submission) {
        let variables: Vec<(&str, String)> = if attached {
            let gpus = self.lowering.folder.submitted_gpus(&self.tasks[index].name);
            let names = gpus.iter().flat_map(|gpus| gpus.split(',')).map(str::to_owned);
            self.resources.adopt(index, names.collect());
            gpus.into_iter().map(|gpus| (env::CUDA_VISIBLE_DEVICES, gpus)).collect()
        } else {
            let concurrent = self.graph.concurrent(index);
            let concurrent = (0..concurrent.len()).filter(|other| concurrent[*other] && !self.tasks[*other].state.is_end());
            let own = submission.processes().first().map(|process| &process.env);
            let is_set = |name: &str| environment::is_set(name) || own.is_some_and(|own| own.contains_key(name));
            self.resources.allocate(index, &concurrent.collect::<Vec<_>>(), is_set)
        };
        for (name, value) in variables {
            submission.set_variable(name, &value);
        }
    }

    /// Returns the callback for the output of one task.
    fn output_of(&self, name: &str) -> job::Output {
        match &self.output {
            None => Box::new(|_| {}),
            Some(output) => {
                let (output, name) = (Arc::clone(output), name.to_owned());
                Box::new(move |bytes| output.lock().unwrap_or_else(PoisonError::into_inner)(&name, bytes))
            }
        }
    }

    /// Applies a message of the job of task `index`.
    pub(super) fn handle(&mut self, (index, message): (usize, Message)) {
        match message {
            Message::Submitted(attempt, job) => {
                let task = &mut self.tasks[index];
                task.attempts = attempt;
                task.job = Some(job.clone());
                task.started.get_or_insert_with(environment::unix_ms);
                self.note(Some(index), Change::Submitted { attempt, job });
            }
            Message::Retried(retry) => {
                let change = Change::Retried {
                    attempt: retry.attempt,
                    failure: Box::new(retry.failure),
                    pause_ms: u64::try_from(retry.pause.as_millis()).unwrap_or(u64::MAX),
                };
                self.note(Some(index), change);
            }
            Message::Ended(ended) => {
                self.resources.release(index);
                let is_stopped = self.stops[index].take().is_some_and(|stop| stop.borrow().count > 0);
                if matches!(*ended, Err(RunError::Cancelled { .. })) && !is_stopped && self.graph.has_parents(index) {
                    // The executor cancels a job whose parents did not end as required; their ends may arrive later.
                    self.undecided.insert(index);
                    self.tasks[index].state = TaskState::Pending;
                    return;
                }
                let (state, report) = match *ended {
                    Ok(report) => (TaskState::Succeeded, report),
                    Err(RunError::Cancelled { .. }) => (TaskState::Cancelled, None),
                    Err(error) => (TaskState::Failed(Box::new(error.into_failure())), None),
                };
                self.end(index, state, report);
            }
        }
    }
}
