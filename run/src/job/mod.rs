//! A job from its submission to its end: forwards output and stop requests, and retries failures. A single run and
//! each task of an experiment are a job.

mod failure_filter;
mod retry;
mod schedule;
mod sink;
mod stop_requests;

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::StreamExt as _;
use neva_executors::{
    BatchError, Executor, ExecutorError, JobEnd, JobEvent, JobFailure, JobHandle, JobKind, JobState, JobStatus, Submission, WatchFrom,
};
use neva_schemas::{LaunchPlan, REPORT_FILE, RunReport, StopSignal, When};
use tokio::{
    sync::{oneshot, watch},
    time::{sleep, timeout},
};

pub use self::retry::Retry;
pub(crate) use self::schedule::{status as schedule_status, submitted as schedule_submitted};
pub(crate) use self::stop_requests::{StopRequests, forward_signals, give_up_submission, is_stop_requested, next_request};
use self::{
    failure_filter::FailureFilter,
    retry::{is_retryable, pause},
    sink::Sink,
};
use crate::{block_on, error::RunError, plan};

/// Callback for the output of rank 0.
pub(crate) type Output = Box<dyn FnMut(&[u8]) + Send>;

/// Callback for each submission: the number of the attempt, from 1, and the job.
type OnSubmit = Box<dyn FnMut(u32, &JobHandle) + Send>;

/// Time in which a job is looked for whose submission was given up.
const LOOK_UP: Duration = Duration::from_secs(10);

/// Retries and callbacks of a job.
pub(crate) struct JobOptions {
    /// Attempts after the first.
    pub(crate) retries: u32,
    /// Called with the output of rank 0.
    pub(crate) output: Output,
    /// Called for each failed attempt that is followed by another.
    pub(crate) on_retry: Box<dyn FnMut(&Retry) + Send>,
    /// Called for each submitted job.
    pub(crate) on_submit: OnSubmit,
    /// Called with a sentence for each change of a job that a cluster schedules.
    pub(crate) on_status: Box<dyn FnMut(&str) + Send>,
}

impl Default for JobOptions {
    fn default() -> Self {
        Self {
            retries: 0,
            output: Box::new(|_| {}),
            on_retry: Box::new(|retry| tracing::warn!("{retry}")),
            on_submit: Box::new(|attempt, job| tracing::info!(attempt, %job, "submitted")),
            on_status: Box::new(|text| tracing::info!("{text}")),
        }
    }
}

/// Runs `plan` to its end through `executor`.
pub(crate) fn run(mut plan: LaunchPlan, executor: &dyn Executor, options: JobOptions) -> Result<RunReport, RunError> {
    // A plan that the executor refuses leaves no folder behind.
    executor.render(&plan)?;
    block_on(async {
        // Before the first process starts, so that an early signal leaves none behind.
        let (requests, stop) = watch::channel(StopRequests::default());
        forward_signals(requests)?;
        let folder = tokio::select! {
            folder = executor.create_folder(&plan.run_dir) => folder?,
            () = give_up_submission(&stop) => return Err(RunError::NotSubmitted),
        };
        plan::move_to(&mut plan, folder);
        let submission = executor.render(&plan)?;
        let report = Job::new(executor, submission, options, stop).run().await?;
        // A job of ranks that succeeds has a report.
        report.ok_or_else(|| RunError::NoReport {
            path: plan.run_dir.join(REPORT_FILE),
            source: io::ErrorKind::NotFound.into(),
        })
    })?
}

/// Submits a job, or waits for the submission of which it is a part.
async fn submit(
    executor: &dyn Executor,
    submission: &Submission,
    shared: Option<oneshot::Receiver<Result<JobHandle, JobFailure>>>,
    after: &[(JobHandle, When)],
) -> Result<JobHandle, RunError> {
    match shared {
        Some(job) => match job.await {
            Ok(submitted) => submitted.map_err(|failure| RunError::Job(Box::new(failure))),
            Err(_) => Err(ExecutorError::from(broken_off()).into()),
        },
        None if after.is_empty() => Ok(executor.submit(submission).await?),
        None => Ok(executor.submit_after(submission, after).await?),
    }
}

/// Cancels the job of a submission that was given up before it was answered, if there is one.
async fn cancel_unanswered(executor: &dyn Executor, dir: &Path, signal: StopSignal) {
    let look_up = async {
        let Some(job) = executor.find_job(dir).await? else { return Ok(()) };
        if !executor.status(&job).await?.state.is_end() {
            executor.cancel(&job, signal).await?;
        }
        Ok::<(), ExecutorError>(())
    };
    if !matches!(timeout(LOOK_UP, look_up).await, Ok(Ok(()))) {
        let dir = dir.display();
        tracing::warn!("whether a job was created is not known: if the queue shows one of {dir}, cancel it there");
    }
}

/// Returns the error of a submission of several tasks whose end nobody reports.
fn broken_off() -> BatchError {
    BatchError::Query {
        reason: "the submission of several tasks was broken off".to_owned(),
    }
}

/// Returns the report of a run that trained to its end, and an error for one that was stopped.
pub(crate) fn completed(report: RunReport) -> Result<RunReport, RunError> {
    let RunReport {
        run_dir,
        steps,
        checkpoint,
        stopped,
        ..
    } = &report;
    match stopped {
        None => Ok(report),
        Some(signal) => Err(RunError::Stopped {
            signal: signal.clone(),
            steps: *steps,
            checkpoint: checkpoint.clone(),
            run_dir: run_dir.clone(),
        }),
    }
}

/// A job and all attempts at it.
pub(crate) struct Job<'a> {
    executor: &'a dyn Executor,
    submission: Submission,
    options: JobOptions,
    sink: Sink,
    stop: watch::Receiver<StopRequests>,
    /// Number of requests that were forwarded to the executor.
    forwarded: u32,
    /// The current attempt, from 1.
    attempt: u32,
    /// A job that another process submitted.
    submitted: Option<JobHandle>,
    /// The first attempt, which is submitted together with other jobs.
    shared: Option<oneshot::Receiver<Result<JobHandle, JobFailure>>>,
    /// Jobs that have to end before the first attempt starts.
    after: Vec<(JobHandle, When)>,
    /// The newest known checkpoint.
    checkpoint: Option<PathBuf>,
}

impl<'a> Job<'a> {
    /// Creates a job that is not submitted yet.
    pub(crate) fn new(
        executor: &'a dyn Executor,
        submission: Submission,
        mut options: JobOptions,
        stop: watch::Receiver<StopRequests>,
    ) -> Self {
        let output = std::mem::replace(&mut options.output, Box::new(|_| {}));
        Self {
            executor,
            submission,
            options,
            sink: Sink::new(output),
            stop,
            forwarded: 0,
            attempt: 1,
            submitted: None,
            shared: None,
            after: Vec::new(),
            checkpoint: None,
        }
    }

    /// Sets the number of the first attempt.
    #[must_use]
    pub(crate) fn attempt(mut self, attempt: u32) -> Self {
        self.attempt = attempt;
        self
    }

    /// Watches `job`, which was submitted earlier, instead of submitting the first attempt.
    #[must_use]
    pub(crate) fn submitted(mut self, job: Option<JobHandle>) -> Self {
        self.submitted = job;
        self
    }

    /// Watches the job that arrives, which is submitted together with others, instead of submitting the first attempt.
    #[must_use]
    pub(crate) fn shared(mut self, job: oneshot::Receiver<Result<JobHandle, JobFailure>>) -> Self {
        self.shared = Some(job);
        self
    }

    /// Lets the executor start the first attempt only after these jobs ended as required.
    #[must_use]
    pub(crate) fn after(mut self, jobs: Vec<(JobHandle, When)>) -> Self {
        self.after = jobs;
        self
    }

    /// Runs the job to its end. Returns the report of a job of ranks; a script has none.
    pub(crate) async fn run(mut self) -> Result<Option<RunReport>, RunError> {
        let ended = self.attempts().await;
        self.flush_output().await;
        // The output callback may print a last line when it is dropped.
        self.sink.close();
        self.flush_output().await;
        ended
    }

    /// Waits for the reader of the output, only briefly if a stop was requested.
    async fn flush_output(&mut self) {
        if !self.is_cancelled() {
            tokio::select! {
                () = self.sink.idle() => return,
                () = next_request(&mut self.stop) => {}
            }
        }
        self.sink.idle_or_timeout().await;
    }

    /// Runs attempts until one succeeds, is stopped or fails for good.
    async fn attempts(&mut self) -> Result<Option<RunReport>, RunError> {
        let attempts = self.options.retries.saturating_add(1);
        for failed in 0.. {
            let failure = match self.once().await {
                Err(RunError::Job(failure)) if self.attempt < attempts && !self.is_cancelled() && is_retryable(&failure) => *failure,
                ended => return ended,
            };
            let pause = pause(failed);
            (self.options.on_retry)(&Retry {
                attempt: self.attempt,
                attempts,
                failure,
                pause,
                checkpoint: self.checkpoint.clone(),
            });
            tokio::select! {
                () = next_request(&mut self.stop) => break,
                () = sleep(pause) => self.attempt = self.attempt.saturating_add(1),
            }
        }
        Err(self.cancelled(None))
    }

    /// Submits the job once and watches it to its end.
    async fn once(&mut self) -> Result<Option<RunReport>, RunError> {
        let job = match self.submitted.take() {
            Some(job) => job,
            None => {
                let (after, shared) = (std::mem::take(&mut self.after), self.shared.take());
                let job = tokio::select! {
                    job = submit(self.executor, &self.submission, shared, &after) => job?,
                    () = give_up_submission(&self.stop) => {
                        let signal = self.stop.borrow().signal;
                        cancel_unanswered(self.executor, &self.submission.dir, signal).await;
                        return Err(self.cancelled(None));
                    }
                };
                (self.options.on_submit)(self.attempt, &job);
                if let Some(text) = schedule::submitted(&job) {
                    (self.options.on_status)(&text);
                }
                job
            }
        };
        let JobEnd { state, results } = self.watch(&job).await?;
        self.checkpoint = results.as_ref().map_or(None, |results| results.checkpoint.clone());
        let report = results.map(|results| results.report);
        match state {
            JobState::Succeeded if self.submission.kind == JobKind::Script => Ok(None),
            JobState::Succeeded => completed(self.required_report(report)?).map(Some),
            // Ranks that were stopped exit as if they had failed, but their report records the stop.
            JobState::Failed(failure) => match report.unwrap_or_default().filter(|report| report.stopped.is_some()) {
                Some(report) if self.is_cancelled() => Err(self.cancelled(Some(report))),
                Some(report) => completed(report).map(Some),
                None => Err(RunError::Job(Box::new(failure))),
            },
            JobState::Cancelled | JobState::Pending | JobState::Running => Err(self.cancelled(report.unwrap_or_default())),
        }
    }

    /// Watches a job until it ends: forwards the output of rank 0 to the sink and stop requests to the executor.
    async fn watch(&mut self, job: &JobHandle) -> Result<JobEnd, RunError> {
        let executor = self.executor;
        let mut filter = FailureFilter::new(self.submission.kind);
        let mut events = executor.watch(job, WatchFrom::rank0());
        let mut told = String::new();
        loop {
            // A slow reader delays reading, so that no output is lost. A job that is being stopped does not wait for
            // its reader.
            let may_read = !self.sink.is_busy() || self.is_cancelled();
            tokio::select! {
                () = next_request(&mut self.stop) => {
                    // Several requests may arrive before this wakes up.
                    let requests = *self.stop.borrow_and_update();
                    while self.forwarded < requests.count {
                        self.forwarded += 1;
                        executor.cancel(job, requests.signal).await?;
                    }
                }
                () = self.sink.written() => {}
                event = events.next(), if may_read => match event {
                    Some(Ok(JobEvent::Output { bytes, .. })) => self.sink.write(filter.pass(&bytes)),
                    Some(Ok(JobEvent::Status(status))) => {
                        let JobStatus { reason, nodes, restarts, .. } = &status;
                        tracing::info!(%job, state = status.state.name(), reason, ?nodes, restarts, "job status");
                        if let Some(text) = schedule::status(job, &status).filter(|text| *text != told) {
                            (self.options.on_status)(&text);
                            told = text;
                        }
                    }
                    Some(Ok(JobEvent::ConnectionLost { reason, retry_in })) => {
                        tracing::warn!("{reason}; the job keeps running; retrying every {} s", retry_in.as_secs().max(1));
                    }
                    Some(Ok(JobEvent::ConnectionRestored)) => tracing::warn!("connection restored"),
                    Some(Ok(JobEvent::Ended(end))) => {
                        self.sink.write(filter.end(&end.state));
                        return Ok(*end);
                    }
                    Some(Err(error)) => return Err(error.into()),
                    None => return Err(ExecutorError::UnknownJob { job: job.clone() }.into()),
                },
            }
        }
    }

    /// Returns true if a stop was requested.
    fn is_cancelled(&self) -> bool {
        self.stop.borrow().count > 0
    }

    /// Returns the report of a job of ranks that succeeded, or an error if it is missing.
    fn required_report(&self, report: Result<Option<RunReport>, ExecutorError>) -> Result<RunReport, RunError> {
        let missing = || RunError::NoReport {
            path: self.submission.dir.join(REPORT_FILE),
            source: io::ErrorKind::NotFound.into(),
        };
        match report {
            Ok(report) => report.ok_or_else(missing),
            Err(ExecutorError::File { path, source, .. }) => Err(RunError::NoReport { path, source }),
            Err(error) => Err(error.into()),
        }
    }

    fn cancelled(&self, report: Option<RunReport>) -> RunError {
        RunError::Cancelled {
            run_dir: self.submission.dir.clone(),
            checkpoint: report.and_then(|report| report.checkpoint).or_else(|| self.checkpoint.clone()),
        }
    }
}
