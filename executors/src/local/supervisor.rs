//! Supervises a group of ranks until its end.
//!
//! After the first rank succeeds, the others have [`exit_timeout_s`](crate::Processes) to exit; ranks that do not are
//! blamed for the failure of the job. The first rank that fails ends the job: its peers have [`LocalExecutor::settle`] to
//! record their failures, then get SIGTERM, and after [`LocalExecutor::grace`] SIGKILL. SIGKILL follows at once if only
//! stopped ranks are left, which cannot handle SIGTERM. A cancel request sends SIGTERM at once or, to ranks, the signal
//! of the request; a second request sends SIGKILL. Time during which the launcher itself was stopped (Ctrl-Z) does not
//! count.
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use neva_schemas::RankFailure;
use neva_schemas::StopSignal;
use rustix::process::Signal;
use tokio::{
    process::Child,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{LocalExecutor, folder::JobFolder, free_port, group::Group};
use crate::{
    error::ExecutorError,
    exit::RankExit,
    failure::JobFailure,
    folder_lock::FolderLock,
    job::JobState,
    submission::{JobKind, Submission},
};

/// Interval at which the folder is checked for cancel requests.
const TICK: Duration = Duration::from_millis(50);

/// A launcher that did not check for this long was stopped.
const PAUSE: Duration = Duration::from_secs(1);

/// Owns a running job.
pub(super) struct Supervisor {
    pub(super) executor: LocalExecutor,
    pub(super) submission: Submission,
    pub(super) folder: JobFolder,
    pub(super) lock: FolderLock,
    /// Offset of this job's records in `failures.jsonl`.
    pub(super) failures_from: u64,
}

/// Phase of a group's end.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    Running,
    /// A rank succeeded; deadline for the others.
    Ending(Instant),
    /// A rank failed; deadline for its peers to exit on their own.
    Failing(Instant),
    /// SIGTERM was sent; time of SIGKILL.
    Terminating(Instant),
    Killed,
}

impl Phase {
    /// Returns the phase with its deadline extended by `pause`.
    fn extended_by(self, pause: Duration) -> Self {
        let later = |at: Instant| at.checked_add(pause).unwrap_or(at);
        match self {
            Self::Ending(at) => Self::Ending(later(at)),
            Self::Failing(at) => Self::Failing(later(at)),
            Self::Terminating(at) => Self::Terminating(later(at)),
            Self::Running | Self::Killed => self,
        }
    }
}

/// Returns the time for which the launcher was stopped. It checks every [`TICK`]; on a busy machine alone a check is
/// late by less than [`PAUSE`].
fn pause_of(since: Duration) -> Duration {
    if since < PAUSE { Duration::ZERO } else { since }
}

impl Supervisor {
    /// Supervises `group` until its end and records the final state.
    pub(super) async fn run(self, group: Group) {
        let state = self.final_state(group).await.unwrap_or_else(|error| {
            let class = error.exit_code();
            JobState::Failed(JobFailure::for_job(class, format!("{error}")))
        });
        self.folder.end(state);
        drop(self.lock);
    }

    /// Waits for the group's end and returns the job's state. A rendezvous port that was taken causes one more attempt.
    async fn final_state(&self, group: Group) -> Result<JobState, ExecutorError> {
        let watched = self.watch(group).await;
        let records = self.folder.files().failures(self.failures_from);
        let taken = records.iter().any(|failure| failure.rank == 0 && failure.port_was_taken());
        if !taken || self.folder.cancel_requests() > 0 {
            return Ok(self.judge(&watched, &records));
        }
        tracing::warn!("the rendezvous port was taken; trying another");
        let from = self.folder.files().failures_len();
        let watched = self.watch(Group::start(&self.submission, free_port()?).await?).await;
        Ok(self.judge(&watched, &self.folder.files().failures(from)))
    }

    /// Returns the job's final state. A failure before a cancel request is still a failure.
    fn judge(&self, Watched { exits, late }: &Watched, records: &[RankFailure]) -> JobState {
        if !late && self.folder.cancel_requests() > 0 && exits.iter().all(|exit| exit.status.success() || !exit.by_itself) {
            return JobState::Cancelled;
        }
        let tail = |rank| self.folder.files().log_tail(rank);
        let late = (*late).then(|| self.submission.exit_timeout_s().unwrap_or_default());
        let failure = match self.submission.kind {
            JobKind::Ranks => JobFailure::first(exits, records, tail).or_else(|| JobFailure::from_late_exits(exits, late?)),
            JobKind::Script => JobFailure::from_script(exits, tail),
        };
        match failure {
            Some(failure) => JobState::Failed(JobFailure {
                log: match self.submission.kind {
                    JobKind::Ranks => failure.rank,
                    JobKind::Script => Some(0),
                }
                .map(|rank| self.folder.files().log(rank)),
                ..failure
            }),
            None => JobState::Succeeded,
        }
    }

    /// Waits for every rank. No process is left when this returns.
    async fn watch(&self, mut group: Group) -> Watched {
        let mut running = JoinSet::new();
        let mut stopped = Vec::new();
        let ids: Vec<_> = (0..).zip(group.ranks.iter().map(Child::id)).collect();
        for (rank, mut child) in (0..).zip(std::mem::take(&mut group.ranks)) {
            running.spawn(async move { (rank, child.wait().await) });
        }
        let (mut exits, mut late) = (Vec::new(), false);
        let exit_timeout = self.submission.exit_timeout_s().map(Duration::from_secs);
        let mut phase = Phase::Running;
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = Instant::now();
        loop {
            let now = Instant::now();
            phase = phase.extended_by(pause_of(now - last));
            last = now;
            let deadline = match phase {
                Phase::Ending(at) | Phase::Failing(at) | Phase::Terminating(at) => Some(at),
                Phase::Running | Phase::Killed => None,
            };
            tokio::select! {
                ended = running.join_next() => match ended {
                    None => break,
                    Some(Ok((rank, Ok(status)))) => {
                        let by_itself = matches!(phase, Phase::Running | Phase::Ending(_) | Phase::Failing(_));
                        tracing::debug!(rank, %status, by_itself, "rank ended");
                        exits.push(RankExit { rank, status, unix_ms: unix_ms(), by_itself, stopped: stopped.contains(&rank) });
                        phase = match (phase, exit_timeout) {
                            (Phase::Running | Phase::Ending(_), _) if !status.success() => {
                                Phase::Failing(Instant::now() + self.executor.settle)
                            }
                            // A deadline beyond the range of time is no deadline.
                            (Phase::Running, Some(timeout)) => Instant::now().checked_add(timeout).map_or(phase, Phase::Ending),
                            _ => phase,
                        };
                    }
                    // A rank that cannot be waited for cannot be supervised either.
                    Some(Ok((rank, Err(error)))) => tracing::error!(rank, %error, "cannot wait for the rank"),
                    Some(Err(error)) => tracing::error!(%error, "cannot wait for a rank"),
                },
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    // The deadline passed while the launcher was stopped; it is extended.
                    if pause_of(last.elapsed()) > Duration::ZERO {
                        continue;
                    }
                    late |= matches!(phase, Phase::Ending(_));
                    stopped = stopped_of(&ids, &exits);
                    phase = match phase {
                        Phase::Ending(_) | Phase::Failing(_) => self.terminate(&group),
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
        // Children of the ranks must not outlive them.
        group.signal(Signal::KILL);
        Watched { exits, late }
    }

    /// Requests all ranks to save and exit. A script gets SIGTERM only, as its background processes ignore SIGINT.
    fn terminate(&self, group: &Group) -> Phase {
        let signal = match self.submission.kind {
            JobKind::Ranks => self.folder.stop_signal(),
            JobKind::Script => StopSignal::Terminate,
        };
        group.signal(Signal::from_named_raw(signal.number()).unwrap_or(Signal::TERM));
        Phase::Terminating(Instant::now() + self.executor.grace)
    }
}

/// Exits of the ranks.
struct Watched {
    exits: Vec<RankExit>,
    /// Some ranks did not end in time after others had succeeded.
    late: bool,
}

/// Returns the running ranks whose processes are stopped by a signal.
fn stopped_of(ids: &[(u32, Option<u32>)], exits: &[RankExit]) -> Vec<u32> {
    let running = ids.iter().filter(|(rank, _)| exits.iter().all(|exit| exit.rank != *rank));
    running
        .filter(|(_, id)| id.is_some_and(is_stopped))
        .map(|(rank, _)| *rank)
        .collect()
}

/// Returns true if a process is stopped by a signal; false if its state is unknown.
fn is_stopped(id: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    // The name before the state may contain anything, even brackets.
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
