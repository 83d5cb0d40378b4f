//! Watchdog for NCCL communicators. NCCL calls return before they are done, and a kernel whose peer never joins spins
//! forever. One thread of each rank checks for overdue calls and broken communicators. A second thread polls the store
//! for alarms of other ranks, so that a store that hangs does not block the first. Either aborts all communicators of
//! this rank, and every later call returns the error.

use super::backend::Backend;
use crate::comm::CommError;
use crate::comm::process_group::within_limit;
use crate::comm::sequence_numbers::describe_participants;
use neva_torch_ffi::Store;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Time between two checks.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Time that the other ranks have to publish their counts after a failure.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// State that all communicators of a rank share.
#[derive(Debug)]
pub(super) struct Watchdog<B: Backend> {
    pub(super) backend: B,
    /// Connection for new communicators. It is separate because a waiting call holds its connection.
    pub(super) store: Store,
    /// Connection for alarms.
    alarms: Store,
    /// World rank.
    pub(super) rank: usize,
    pub(super) timeout: Duration,
    communicators: Mutex<Vec<Weak<dyn Monitored>>>,
    failure: Mutex<Option<Failure>>,
    changed: Condvar,
    ended: AtomicBool,
    /// Set when a communicator could not be finalized in time: the next ones are aborted at once.
    pub(super) skip_finalize: AtomicBool,
}

/// A communicator that the watchdog checks.
pub(super) trait Monitored: std::fmt::Debug + Send + Sync {
    /// Returns the name of the group.
    fn name(&self) -> &str;

    /// Returns the number of calls that were started.
    fn started(&self) -> u64;

    /// Checks for an overdue call and a broken communicator.
    fn check(&self) -> Result<(), Fault>;

    /// Aborts the communicator and everything that waits on it.
    fn abort(&self);
}

/// Reason for which calls may not continue.
#[derive(Debug, Clone)]
enum Failure {
    Own(CommError),
    Peer(String),
}

/// Failure that a rank reports to the others.
#[derive(Debug, Serialize, Deserialize)]
struct Alarm {
    rank: usize,
    reason: String,
}

/// A call that is not complete in time.
#[derive(Debug, Clone)]
pub(super) struct Overdue {
    pub(super) group: String,
    /// World ranks.
    pub(super) members: Vec<usize>,
    /// This rank's number in the group.
    pub(super) rank: usize,
    /// Sequence number of the call on its communicator, from 1.
    pub(super) number: u64,
    pub(super) operation: &'static str,
    pub(super) what: String,
    pub(super) waited: Duration,
}

impl<B: Backend> Watchdog<B> {
    pub(super) fn new(backend: B, store: Store, alarms: Store, rank: usize, timeout: Duration) -> Self {
        Self {
            backend,
            store,
            alarms,
            rank,
            timeout,
            communicators: Mutex::default(),
            failure: Mutex::default(),
            changed: Condvar::new(),
            ended: AtomicBool::new(false),
            skip_finalize: AtomicBool::new(false),
        }
    }

    /// Registers a communicator.
    pub(super) fn add(&self, communicator: &Arc<dyn Monitored>) {
        let mut communicators = lock(&self.communicators);
        communicators.retain(|communicator| communicator.strong_count() > 0);
        communicators.push(Arc::downgrade(communicator));
    }

    /// Checks all communicators until [`Self::end`], or until a failure.
    pub(super) fn run(self: &Arc<Self>) {
        while self.pause(POLL_INTERVAL) {
            for communicator in self.alive() {
                match communicator.check() {
                    Ok(()) => {}
                    Err(Fault::Overdue(overdue)) => drop(self.report_overdue(overdue)),
                    Err(Fault::Broken(error)) => {
                        self.notify(error.to_string());
                        self.fail(Failure::Own(error));
                    }
                }
            }
        }
    }

    /// Polls for an alarm of another rank, as long as [`Self::run`] runs.
    pub(super) fn listen(&self) {
        while self.pause(POLL_INTERVAL) {
            let alarm = match self.alarms.check(&["alarm"]) {
                Ok(false) => continue,
                Ok(true) => self.alarms.get("alarm", ANSWER_TIMEOUT),
                Err(error) => Err(error),
            };
            let reason = match alarm.map(|alarm| serde_json::from_slice::<Alarm>(&alarm)) {
                // The own failure is being recorded.
                Ok(Ok(Alarm { rank, .. })) if rank == self.rank => continue,
                Ok(Ok(Alarm { rank, reason })) => format!("rank {rank} gave up: {reason}"),
                Ok(Err(error)) => format!("an alarm cannot be read: {error}"),
                Err(error) => format!("the store of rank 0 is gone: {error}"),
            };
            self.publish();
            self.fail(Failure::Peer(reason));
        }
    }

    /// Ends both threads.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        // Take the lock once: no thread is between its check and its wait then.
        drop(lock(&self.failure));
        self.changed.notify_all();
    }

    /// Returns the error of an overdue call. Asks the other ranks for their counts and aborts everything.
    pub(super) fn report_overdue(self: &Arc<Self>, overdue: Overdue) -> CommError {
        let mut error = CommError::Deadline {
            group: overdue.group.clone(),
            operation: overdue.operation,
            what: overdue.what.clone(),
            rank: overdue.rank,
            waited: overdue.waited,
            arrived: String::new(),
        };
        let (watchdog, reason) = (self.clone(), error.to_string());
        let answer = within_limit(2 * ANSWER_TIMEOUT, move || {
            watchdog.alarm(reason.trim_end_matches([',', ' ']));
            ask_ranks(&watchdog.alarms, &overdue)
        });
        if let CommError::Deadline { arrived, .. } = &mut error {
            *arrived = answer.unwrap_or_else(|| "the store of rank 0 does not answer".into());
        }
        self.fail(Failure::Own(error.clone()));
        error
    }

    /// Notifies all ranks that this one gave up.
    pub(super) fn notify(self: &Arc<Self>, reason: String) {
        let watchdog = self.clone();
        // A rank that cannot be notified runs into its own deadline.
        let _ = within_limit(ANSWER_TIMEOUT, move || watchdog.alarm(&reason));
    }

    fn alarm(&self, reason: &str) {
        self.publish();
        let alarm = Alarm {
            rank: self.rank,
            reason: reason.into(),
        };
        // As in `notify`.
        let _ = serde_json::to_vec(&alarm).map(|alarm| self.alarms.set("alarm", &alarm));
    }

    /// Returns an error if calls may not continue.
    ///
    /// # Errors
    /// The recorded failure, with this group and operation.
    pub(super) fn check(&self, group: &str, operation: &'static str) -> Result<(), CommError> {
        match &*lock(&self.failure) {
            None => Ok(()),
            Some(Failure::Own(error)) => Err(error.clone()),
            Some(Failure::Peer(reason)) => Err(CommError::Peer {
                group: group.into(),
                operation,
                reason: reason.clone(),
            }),
        }
    }

    /// Waits for `time`. Returns false at once after a failure or [`Self::end`].
    pub(super) fn pause(&self, time: Duration) -> bool {
        let ended = || self.ended.load(Ordering::Acquire);
        let (failure, _) = self
            .changed
            .wait_timeout_while(lock(&self.failure), time, |failure| failure.is_none() && !ended())
            .unwrap_or_else(PoisonError::into_inner);
        failure.is_none() && !ended()
    }

    /// Returns the communicators that still exist.
    fn alive(&self) -> Vec<Arc<dyn Monitored>> {
        lock(&self.communicators).iter().filter_map(Weak::upgrade).collect()
    }

    /// Publishes how many calls of each communicator this rank has started.
    fn publish(&self) {
        let counts: BTreeMap<_, _> = self.alive().iter().map(|one| (one.name().to_owned(), one.started())).collect();
        // A rank that cannot publish counts as one that does not answer.
        let _ = serde_json::to_vec(&counts).map(|counts| self.alarms.set(&counts_of(self.rank), &counts));
    }

    /// Records the first failure and aborts all communicators. It is recorded before waiting kernels end: they leave no
    /// valid result, and the next call returns the failure.
    fn fail(&self, failure: Failure) {
        lock(&self.failure).get_or_insert(failure);
        self.changed.notify_all();
        self.alive().iter().for_each(|communicator| communicator.abort());
    }
}

/// Result of a check.
#[derive(Debug)]
pub(super) enum Fault {
    Overdue(Overdue),
    Broken(CommError),
}

fn counts_of(rank: usize) -> String {
    format!("started/{rank}")
}

/// Describes which ranks of a group had started a call.
fn ask_ranks(store: &Store, overdue: &Overdue) -> String {
    let asked = Instant::now();
    let (mut arrived, mut silent) = (Vec::new(), Vec::new());
    for (rank, member) in overdue.members.iter().enumerate() {
        let left = ANSWER_TIMEOUT.saturating_sub(asked.elapsed()).max(POLL_INTERVAL);
        let counts = store.get(&counts_of(*member), left).ok();
        let counts = counts.and_then(|text| serde_json::from_slice::<BTreeMap<String, u64>>(&text).ok());
        match counts {
            None => silent.push(rank),
            Some(counts) if counts.get(&overdue.group).is_some_and(|started| *started >= overdue.number) => arrived.push(rank),
            Some(_) => {}
        }
    }
    describe_participants(overdue.members.len(), &arrived, &silent)
}

/// Locks `mutex`. A panic of another thread leaves the data consistent: every change is a single assignment.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
