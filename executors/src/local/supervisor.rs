//! Watches a group of ranks to its end.
//!
//! A rank that succeeds leaves its peers alone. The first that fails ends the job: its peers have
//! [`LocalExecutor::settle`] to tell what they saw, then get SIGTERM, and after [`LocalExecutor::grace`]
//! SIGKILL. A request to cancel is SIGTERM at once; a second one SIGKILL.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use neva_schemas::RankFailure;
use rustix::process::Signal;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{
    LocalExecutor,
    folder::{JobFolder, JobLock},
    free_port,
    group::Group,
};
use crate::{
    error::ExecutorError,
    executor::JobState,
    failure::{JobFailure, RankExit},
    submission::{JobKind, Submission},
};

/// How often the folder is asked for a request to cancel.
const TICK: Duration = Duration::from_millis(50);

/// Owns a running job.
pub(super) struct Supervisor {
    pub(super) executor: LocalExecutor,
    pub(super) submission: Submission,
    pub(super) folder: JobFolder,
    pub(super) lock: JobLock,
    /// Where this job's records begin in the file of failures.
    pub(super) failures_from: u64,
}

/// How far the end of a group has come.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    Running,
    /// A rank failed; its peers may end by themselves until then.
    Settling(Instant),
    /// SIGTERM was sent; SIGKILL follows then.
    Terminating(Instant),
    Killed,
}

impl Supervisor {
    /// Watches `group` to its end and records how that was.
    pub(super) async fn run(self, group: Group) {
        let state = self.state_at_end(group).await.unwrap_or_else(|error| {
            let class = error.class();
            JobState::Failed(JobFailure::of_job(class, format!("{error}")))
        });
        if let Err(error) = self.folder.write_record(state) {
            tracing::error!(%error, "the job's end is not recorded");
        }
        drop(self.lock);
    }

    /// A port that was taken before rank 0 could is worth a second attempt, and no more.
    async fn state_at_end(&self, group: Group) -> Result<JobState, ExecutorError> {
        let exits = self.watch(group).await;
        let records = self.folder.failures(self.failures_from);
        let taken = records.iter().any(|failure| failure.rank == 0 && failure.port_was_taken());
        if !taken || self.folder.cancel_requests() > 0 {
            return Ok(self.judge(&exits, &records));
        }
        tracing::warn!("the port at which ranks meet was taken; trying another");
        let from = self.folder.failures_len();
        let exits = self.watch(Group::start(&self.submission, free_port()?).await?).await;
        Ok(self.judge(&exits, &self.folder.failures(from)))
    }

    /// A failure before the request to cancel is still a failure.
    fn judge(&self, exits: &[RankExit], records: &[RankFailure]) -> JobState {
        if self.folder.cancel_requests() > 0 && exits.iter().all(|exit| exit.status.success() || !exit.by_itself) {
            return JobState::Cancelled;
        }
        let tail = |rank| self.folder.log_tail(rank);
        let failure = match self.submission.kind {
            JobKind::Ranks => JobFailure::first(exits, records, tail),
            JobKind::Script => JobFailure::of_script(exits, tail),
        };
        match failure {
            Some(failure) => JobState::Failed(JobFailure {
                log: match self.submission.kind {
                    JobKind::Ranks => failure.rank,
                    JobKind::Script => Some(0),
                }
                .map(|rank| self.folder.log(rank)),
                ..failure
            }),
            None => JobState::Succeeded,
        }
    }

    /// Waits for every rank; none is left when this returns.
    async fn watch(&self, mut group: Group) -> Vec<RankExit> {
        let mut running = JoinSet::new();
        for (rank, mut child) in (0..).zip(std::mem::take(&mut group.ranks)) {
            running.spawn(async move { (rank, child.wait().await) });
        }
        let mut exits = Vec::new();
        let mut phase = Phase::Running;
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let deadline = match phase {
                Phase::Settling(at) | Phase::Terminating(at) => Some(at),
                Phase::Running | Phase::Killed => None,
            };
            tokio::select! {
                ended = running.join_next() => match ended {
                    None => break,
                    Some(Ok((rank, Ok(status)))) => {
                        let by_itself = matches!(phase, Phase::Running | Phase::Settling(_));
                        tracing::debug!(rank, %status, by_itself, "rank ended");
                        exits.push(RankExit { rank, status, unix_ms: unix_ms(), by_itself });
                        if !status.success() && phase == Phase::Running {
                            phase = Phase::Settling(Instant::now() + self.executor.settle);
                        }
                    }
                    // A rank that cannot be waited for cannot be watched either.
                    Some(Ok((rank, Err(error)))) => tracing::error!(rank, %error, "cannot wait for the rank"),
                    Some(Err(error)) => tracing::error!(%error, "cannot wait for a rank"),
                },
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    phase = match phase {
                        Phase::Settling(_) => self.terminate(&group),
                        _ => kill(&group),
                    };
                }
                _ = tick.tick() => match (self.folder.cancel_requests(), phase) {
                    (0, _) | (_, Phase::Killed) | (1, Phase::Terminating(_)) => {}
                    (1, _) => phase = self.terminate(&group),
                    (2.., _) => phase = kill(&group),
                },
            }
        }
        // What the ranks started must not outlive them.
        group.signal(Signal::KILL);
        exits
    }

    fn terminate(&self, group: &Group) -> Phase {
        group.signal(Signal::TERM);
        Phase::Terminating(Instant::now() + self.executor.grace)
    }
}

fn kill(group: &Group) -> Phase {
    group.signal(Signal::KILL);
    Phase::Killed
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
