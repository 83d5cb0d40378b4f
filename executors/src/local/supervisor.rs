//! Watches a group of ranks to its end.
//!
//! A rank that succeeds leaves its peers alone, but not for ever: after [`Submission::patience_s`] the job has failed of
//! those that do not end. The first that fails ends the job: its peers have [`LocalExecutor::settle`] to tell what they
//! saw, then get SIGTERM, and after [`LocalExecutor::grace`] SIGKILL; at once where nothing but stopped ranks is left,
//! which hear no SIGTERM. A request to cancel is SIGTERM at once; a second one SIGKILL.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use neva_schemas::RankFailure;
use rustix::process::Signal;
use tokio::{
    process::Child,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{LocalExecutor, folder::JobFolder, free_port, group::Group};
use crate::{
    error::ExecutorError,
    executor::JobState,
    exit::RankExit,
    failure::JobFailure,
    folder_lock::FolderLock,
    submission::{JobKind, Submission},
};

/// How often the folder is asked for a request to cancel.
const TICK: Duration = Duration::from_millis(50);

/// Owns a running job.
pub(super) struct Supervisor {
    pub(super) executor: LocalExecutor,
    pub(super) submission: Submission,
    pub(super) folder: JobFolder,
    pub(super) lock: FolderLock,
    /// Where this job's records begin in the file of failures.
    pub(super) failures_from: u64,
}

/// How far the end of a group has come.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    Running,
    /// A rank has succeeded; the others are awaited until then.
    Ending(Instant),
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
        let watched = self.watch(group).await;
        let records = self.folder.failures(self.failures_from);
        let taken = records.iter().any(|failure| failure.rank == 0 && failure.port_was_taken());
        if !taken || self.folder.cancel_requests() > 0 {
            return Ok(self.judge(&watched, &records));
        }
        tracing::warn!("the port at which ranks meet was taken; trying another");
        let from = self.folder.failures_len();
        let watched = self.watch(Group::start(&self.submission, free_port()?).await?).await;
        Ok(self.judge(&watched, &self.folder.failures(from)))
    }

    /// A failure before the request to cancel is still a failure.
    fn judge(&self, Watched { exits, late }: &Watched, records: &[RankFailure]) -> JobState {
        if !late && self.folder.cancel_requests() > 0 && exits.iter().all(|exit| exit.status.success() || !exit.by_itself) {
            return JobState::Cancelled;
        }
        let tail = |rank| self.folder.log_tail(rank);
        let late = (*late).then(|| self.submission.patience_s.unwrap_or_default());
        let failure = match self.submission.kind {
            JobKind::Ranks => JobFailure::first(exits, records, tail).or_else(|| JobFailure::of_late(exits, late?)),
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
    async fn watch(&self, mut group: Group) -> Watched {
        let mut running = JoinSet::new();
        let mut stopped = Vec::new();
        let ids: Vec<_> = (0..).zip(group.ranks.iter().map(Child::id)).collect();
        for (rank, mut child) in (0..).zip(std::mem::take(&mut group.ranks)) {
            running.spawn(async move { (rank, child.wait().await) });
        }
        let (mut exits, mut late) = (Vec::new(), false);
        let patience = self.submission.patience_s.map(Duration::from_secs);
        let mut phase = Phase::Running;
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let deadline = match phase {
                Phase::Ending(at) | Phase::Settling(at) | Phase::Terminating(at) => Some(at),
                Phase::Running | Phase::Killed => None,
            };
            tokio::select! {
                ended = running.join_next() => match ended {
                    None => break,
                    Some(Ok((rank, Ok(status)))) => {
                        let by_itself = matches!(phase, Phase::Running | Phase::Ending(_) | Phase::Settling(_));
                        tracing::debug!(rank, %status, by_itself, "rank ended");
                        exits.push(RankExit { rank, status, unix_ms: unix_ms(), by_itself, stopped: stopped.contains(&rank) });
                        phase = match (phase, patience) {
                            (Phase::Running | Phase::Ending(_), _) if !status.success() => {
                                Phase::Settling(Instant::now() + self.executor.settle)
                            }
                            // Longer than there will be time is as good as for ever.
                            (Phase::Running, Some(patience)) => Instant::now().checked_add(patience).map_or(phase, Phase::Ending),
                            _ => phase,
                        };
                    }
                    // A rank that cannot be waited for cannot be watched either.
                    Some(Ok((rank, Err(error)))) => tracing::error!(rank, %error, "cannot wait for the rank"),
                    Some(Err(error)) => tracing::error!(%error, "cannot wait for a rank"),
                },
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    late |= matches!(phase, Phase::Ending(_));
                    stopped = stopped_of(&ids, &exits);
                    phase = match phase {
                        Phase::Ending(_) | Phase::Settling(_) => self.terminate(&group),
                        _ => kill(&group),
                    };
                }
                _ = tick.tick() => match (self.folder.cancel_requests(), phase) {
                    (0 | 1, Phase::Terminating(_)) => {
                        stopped = stopped_of(&ids, &exits);
                        if !stopped.is_empty() && stopped.len() + exits.len() == ids.len() {
                            phase = kill(&group);
                        }
                    }
                    (0, _) | (_, Phase::Killed) => {}
                    (1, _) => phase = self.terminate(&group),
                    (2.., _) => phase = kill(&group),
                },
            }
        }
        // What the ranks started must not outlive them.
        group.signal(Signal::KILL);
        Watched { exits, late }
    }

    fn terminate(&self, group: &Group) -> Phase {
        group.signal(Signal::TERM);
        Phase::Terminating(Instant::now() + self.executor.grace)
    }
}

/// How the ranks ended.
struct Watched {
    exits: Vec<RankExit>,
    /// Some did not, long after others had succeeded.
    late: bool,
}

/// Of ranks and their processes those that a signal has stopped.
fn stopped_of(ids: &[(u32, Option<u32>)], exits: &[RankExit]) -> Vec<u32> {
    let running = ids.iter().filter(|(rank, _)| exits.iter().all(|exit| exit.rank != *rank));
    running
        .filter(|(_, id)| id.is_some_and(is_stopped))
        .map(|(rank, _)| *rank)
        .collect()
}

/// Whether a signal has stopped a process. Where the system does not tell, none is.
fn is_stopped(id: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    // The name in front of it may hold anything, brackets too.
    status
        .rsplit_once(')')
        .is_some_and(|(_, rest)| rest.trim_start().starts_with(['T', 't']))
}

fn kill(group: &Group) -> Phase {
    group.signal(Signal::KILL);
    Phase::Killed
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
