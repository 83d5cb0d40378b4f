//! A job from its submission to its end: output is handed on, a request ends it, and where it failed it is
//! submitted again, as often as that was asked for. A run alone and each task of an experiment are one.

mod retry;
mod signals;

use std::{fs, io, time::Duration};

use neva_executors::{Executor, JobHandle, JobKind, JobState, Submission};
use neva_schemas::{LaunchPlan, REPORT_FILE, RunReport};
use tokio::{sync::watch, time::sleep};

pub use self::retry::Retry;
use self::retry::{may_pass, pause};
pub(crate) use self::signals::{forward_signals, requested};
use crate::{checkpoint, error::RunError, folder};

/// Pause between the first two questions after a job's state and output, which doubles up to [`LONGEST_TICK`]: a
/// short job is not waited for, and a long one not pestered.
const FIRST_TICK: Duration = Duration::from_millis(2);
const LONGEST_TICK: Duration = Duration::from_millis(50);

/// What takes the output of rank 0.
pub(crate) type Output = Box<dyn FnMut(&[u8]) + Send>;

/// Is told of a submitted job, and which attempt it is, from 1.
type OnSubmit = Box<dyn FnMut(u32, &JobHandle) + Send>;

/// What its starter wants of a job.
pub(crate) struct Watcher {
    /// Attempts after the first.
    pub(crate) retries: u32,
    /// Takes the output of rank 0.
    pub(crate) output: Output,
    /// Is told of each attempt that is followed by another.
    pub(crate) on_retry: Box<dyn FnMut(&Retry) + Send>,
    /// Is told of each job that was submitted, and which attempt it is, from 1.
    pub(crate) on_submit: OnSubmit,
}

impl Default for Watcher {
    fn default() -> Self {
        Self {
            retries: 0,
            output: Box::new(|_| {}),
            on_retry: Box::new(|retry| tracing::warn!("{retry}")),
            on_submit: Box::new(|attempt, job| tracing::info!(attempt, %job, "submitted")),
        }
    }
}

/// Runs `plan` to its end through `executor`.
pub(crate) fn run(mut plan: LaunchPlan, executor: &dyn Executor, watcher: Watcher) -> Result<RunReport, RunError> {
    // A plan that cannot run here leaves no folder behind.
    executor.render(&plan)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| RunError::System {
        action: "start the launcher's runtime",
        source,
    })?;
    runtime.block_on(async {
        // Before the first process starts: none is left behind by a signal that comes early.
        let (requests, end) = watch::channel(0);
        forward_signals(requests)?;
        folder::create_run_folder(&mut plan)?;
        let submission = executor.render(&plan)?;
        let report = Job::new(executor, submission, watcher, end).run().await?;
        // A job of ranks leaves one, or is an error.
        report.ok_or_else(|| RunError::NoReport {
            path: plan.run_dir.join(REPORT_FILE),
            source: io::ErrorKind::NotFound.into(),
        })
    })
}

/// What a run that came to an end by itself gives: its report, unless it was told to stop before.
pub(crate) fn finished(report: RunReport) -> Result<RunReport, RunError> {
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
    watcher: Watcher,
    /// How often its end was asked for: the first time it may save and leave, then it is killed.
    end: watch::Receiver<u32>,
    /// Requests that were handed on.
    asked: u32,
    /// The attempt that runs, from 1.
    attempt: u32,
    /// A job that was submitted before, by another process.
    submitted: Option<JobHandle>,
}

impl<'a> Job<'a> {
    /// A job that was not submitted yet.
    pub(crate) fn new(executor: &'a dyn Executor, submission: Submission, watcher: Watcher, end: watch::Receiver<u32>) -> Self {
        Self {
            executor,
            submission,
            watcher,
            end,
            asked: 0,
            attempt: 1,
            submitted: None,
        }
    }

    /// Counts from `attempt` on.
    #[must_use]
    pub(crate) fn attempt(mut self, attempt: u32) -> Self {
        self.attempt = attempt;
        self
    }

    /// Watches `job`, which was submitted before, in place of the first attempt.
    #[must_use]
    pub(crate) fn submitted(mut self, job: Option<JobHandle>) -> Self {
        self.submitted = job;
        self
    }

    /// Sees the job to its end. What a job of ranks leaves is its report; a script leaves none.
    pub(crate) async fn run(mut self) -> Result<Option<RunReport>, RunError> {
        let attempts = self.watcher.retries.saturating_add(1);
        for failed in 0.. {
            let failure = match self.once().await {
                Err(RunError::Job(failure)) if self.attempt < attempts && !self.is_cancelled() && may_pass(&failure) => *failure,
                ended => return ended,
            };
            let pause = pause(failed);
            (self.watcher.on_retry)(&Retry {
                attempt: self.attempt,
                attempts,
                failure,
                pause,
                checkpoint: checkpoint::newest(&self.submission.dir),
            });
            tokio::select! {
                () = requested(&mut self.end) => break,
                () = sleep(pause) => self.attempt = self.attempt.saturating_add(1),
            }
        }
        Err(self.cancelled(None))
    }

    /// Submits the job once and sees how it ends.
    async fn once(&mut self) -> Result<Option<RunReport>, RunError> {
        let job = match self.submitted.take() {
            Some(job) => job,
            None => {
                self.remove_report()?;
                let job = self.executor.submit(&self.submission).await?;
                (self.watcher.on_submit)(self.attempt, &job);
                job
            }
        };
        let state = self.watch(&job).await?;
        if self.submission.kind == JobKind::Script {
            return match state {
                JobState::Succeeded => Ok(None),
                JobState::Failed(failure) => Err(RunError::Job(Box::new(failure))),
                _ => Err(self.cancelled(None)),
            };
        }
        let failure = match state {
            JobState::Succeeded => return finished(self.report()?).map(Some),
            JobState::Failed(failure) => failure,
            _ => return Err(self.cancelled(self.report().ok())),
        };
        // Ranks that were told to stop end as if they had failed, but leave a report that says so.
        match self.report().ok().filter(|report| report.stopped.is_some()) {
            Some(report) if self.is_cancelled() => Err(self.cancelled(Some(report))),
            Some(report) => finished(report).map(Some),
            None => Err(RunError::Job(Box::new(failure))),
        }
    }

    /// Follows a job to its end: passes on the output of rank 0, and a request to end as one to cancel.
    async fn watch(&mut self, job: &JobHandle) -> Result<JobState, RunError> {
        let mut tick = FIRST_TICK;
        let mut offset = 0;
        loop {
            tokio::select! {
                () = requested(&mut self.end) => {
                    // Requests that come at the same time wake this once.
                    let asked = *self.end.borrow_and_update();
                    while self.asked < asked {
                        self.asked += 1;
                        self.executor.cancel(job).await?;
                    }
                }
                () = sleep(tick) => {
                    tick = (2 * tick).min(LONGEST_TICK);
                    // Asked before the output is read, so that the last of it is not missed.
                    let state = self.executor.state(job).await?;
                    loop {
                        let chunk = self.executor.logs(job, 0, offset).await?;
                        if chunk.bytes.is_empty() {
                            break;
                        }
                        offset = chunk.next;
                        (self.watcher.output)(&chunk.bytes);
                    }
                    if !matches!(state, JobState::Pending | JobState::Running) {
                        return Ok(state);
                    }
                }
            }
        }
    }

    /// Whether somebody asked for the end.
    fn is_cancelled(&self) -> bool {
        *self.end.borrow() > 0
    }

    /// What rank 0 left.
    fn report(&self) -> Result<RunReport, RunError> {
        let path = self.submission.dir.join(REPORT_FILE);
        let read = fs::read(&path).and_then(|text| serde_json::from_slice(&text).map_err(io::Error::from));
        read.map_err(|source| RunError::NoReport { path, source })
    }

    /// The report of one attempt must not be taken for the next one's.
    fn remove_report(&self) -> Result<(), RunError> {
        let path = self.submission.dir.join(REPORT_FILE);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(RunError::File {
                action: "remove",
                path,
                source,
            }),
            _ => Ok(()),
        }
    }

    fn cancelled(&self, report: Option<RunReport>) -> RunError {
        RunError::Cancelled {
            run_dir: self.submission.dir.clone(),
            checkpoint: report
                .and_then(|report| report.checkpoint)
                .or_else(|| checkpoint::newest(&self.submission.dir)),
        }
    }
}
