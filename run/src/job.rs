//! A job from its submission to its end: output is handed on, a signal ends it, and where it failed it is
//! submitted again, as often as that was asked for.

use std::{fmt, fs, io, path::PathBuf, time::Duration};

use neva_executors::{Executor, JobFailure, JobHandle, JobState, Submission};
use neva_schemas::{LaunchPlan, REPORT_FILE, RunReport, exit_class};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{MissedTickBehavior, interval, sleep},
};

use crate::{checkpoint, error::RunError, folder};

/// How often a job is asked for its state and output.
const TICK: Duration = Duration::from_millis(50);

/// Longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What takes the output of rank 0.
pub(crate) type Output = Box<dyn FnMut(&[u8]) + Send>;

/// What its starter wants of a job.
pub(crate) struct Watcher {
    /// Attempts after the first.
    pub(crate) retries: u32,
    /// Takes the output of rank 0.
    pub(crate) output: Output,
    /// Is told of each attempt that is followed by another.
    pub(crate) on_retry: Box<dyn FnMut(&Retry) + Send>,
}

impl Default for Watcher {
    fn default() -> Self {
        Self {
            retries: 0,
            output: Box::new(|_| {}),
            on_retry: Box::new(|retry| tracing::warn!("{retry}")),
        }
    }
}

/// An attempt at a run that failed and is followed by another.
#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    /// The attempt that failed, from 1.
    pub attempt: u32,
    /// Attempts that there may be.
    pub attempts: u32,
    /// How it failed.
    pub failure: JobFailure,
    /// Time to the next attempt.
    pub pause: Duration,
    /// The checkpoint that the next attempt goes on from; without one it starts over.
    pub checkpoint: Option<PathBuf>,
}

impl fmt::Display for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            attempt,
            attempts,
            failure,
            pause,
            checkpoint,
        } = self;
        writeln!(f, "attempt {attempt} of {attempts} failed: {failure}")?;
        write!(f, "attempt {} starts in {} s and ", attempt + 1, pause.as_secs())?;
        match checkpoint {
            Some(checkpoint) => write!(f, "goes on from the last checkpoint, {}", checkpoint.display()),
            None => f.write_str("starts over: there is no checkpoint yet"),
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
        let signals = EndSignals::listen().map_err(|source| RunError::System {
            action: "listen for signals",
            source,
        })?;
        folder::create_run_folder(&mut plan)?;
        let submission = executor.render(&plan)?;
        let job = Job {
            executor,
            submission,
            run_dir: plan.run_dir,
            watcher,
            signals,
            cancelled: false,
        };
        job.run().await
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
struct Job<'a> {
    executor: &'a dyn Executor,
    submission: Submission,
    run_dir: PathBuf,
    watcher: Watcher,
    signals: EndSignals,
    /// A signal asked for the end.
    cancelled: bool,
}

impl Job<'_> {
    async fn run(mut self) -> Result<RunReport, RunError> {
        let mut attempt = 1;
        loop {
            let failure = match self.attempt().await {
                Err(RunError::Job(failure)) if attempt <= self.watcher.retries && !self.cancelled && may_pass(&failure) => *failure,
                ended => return ended,
            };
            let pause = pause(attempt);
            (self.watcher.on_retry)(&Retry {
                attempt,
                attempts: self.watcher.retries.saturating_add(1),
                failure,
                pause,
                checkpoint: checkpoint::newest(&self.run_dir),
            });
            tokio::select! {
                () = self.signals.next() => return Err(self.cancelled(None)),
                () = sleep(pause) => attempt += 1,
            }
        }
    }

    /// Submits the job once and sees how it ends.
    async fn attempt(&mut self) -> Result<RunReport, RunError> {
        self.remove_report()?;
        let job = self.executor.submit(&self.submission).await?;
        tracing::info!(%job, "submitted");
        let state = self.watch(&job).await?;
        let failure = match state {
            JobState::Succeeded => return finished(self.report()?),
            JobState::Failed(failure) => failure,
            _ => return Err(self.cancelled(self.report().ok())),
        };
        // Ranks that were told to stop end as if they had failed, but leave a report that says so.
        match self.report().ok().filter(|report| report.stopped.is_some()) {
            Some(report) if self.cancelled => Err(self.cancelled(Some(report))),
            Some(report) => finished(report),
            None => Err(RunError::Job(Box::new(failure))),
        }
    }

    /// Follows a job to its end: passes on the output of rank 0, and a signal as a request to cancel.
    async fn watch(&mut self, job: &JobHandle) -> Result<JobState, RunError> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut offset = 0;
        loop {
            tokio::select! {
                () = self.signals.next() => {
                    tracing::warn!("ending the run; once more kills it");
                    self.cancelled = true;
                    self.executor.cancel(job).await?;
                }
                _ = tick.tick() => {
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

    /// What rank 0 left.
    fn report(&self) -> Result<RunReport, RunError> {
        let path = self.run_dir.join(REPORT_FILE);
        let read = fs::read(&path).and_then(|text| serde_json::from_slice(&text).map_err(io::Error::from));
        read.map_err(|source| RunError::NoReport { path, source })
    }

    /// The report of one attempt must not be taken for the next one's.
    fn remove_report(&self) -> Result<(), RunError> {
        let path = self.run_dir.join(REPORT_FILE);
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
            run_dir: self.run_dir.clone(),
            checkpoint: report
                .and_then(|report| report.checkpoint)
                .or_else(|| checkpoint::newest(&self.run_dir)),
        }
    }
}

/// Whether a failure may be gone at the next attempt. Wrong input and bugs stay.
fn may_pass(failure: &JobFailure) -> bool {
    matches!(failure.class, exit_class::JOB | exit_class::CLUSTER)
}

/// Time between `attempt`, counted from 1, and the next: 1 s, 2 s, 4 s and so on.
fn pause(attempt: u32) -> Duration {
    let doubled = 2u64.checked_pow(attempt - 1).map(Duration::from_secs);
    doubled.map_or(LONGEST_PAUSE, |pause| pause.min(LONGEST_PAUSE))
}

/// The signals that ask a program to end: those of a terminal and of a system that shuts down, and the one
/// that schedulers send before a job's time is over.
struct EndSignals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    user: Signal,
}

impl EndSignals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            user: signal(SignalKind::user_defined1())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
            _ = self.user.recv() => {}
        }
    }
}
