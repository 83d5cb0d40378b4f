//! A rank's eye on its communicators. NCCL's calls return before they are done, and a kernel whose peer does not come
//! spins for ever: a thread of each rank looks for calls that are too old and for broken communicators, and listens for
//! an alarm of another rank. Then it ends all communicators of this rank, so that nothing hangs, and every later call
//! or wait says why.

use super::backend::Backend;
use super::communicator::Communicator;
use crate::comm::CommError;
use neva_torch_ffi::{Error as FfiError, Store};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(200);
/// Time for the others to tell how far they came, once something is wrong.
const ANSWER: Duration = Duration::from_secs(2);

/// What all communicators of a rank share.
#[derive(Debug)]
pub(super) struct Watch<B: Backend> {
    pub(super) backend: B,
    /// For communicators that are formed, and for a rank's last word.
    pub(super) store: Store,
    /// Number in the world.
    pub(super) rank: usize,
    pub(super) timeout: Duration,
    communicators: Mutex<Vec<Weak<Communicator<B>>>>,
    verdict: Mutex<Option<Verdict>>,
    changed: Condvar,
    ended: AtomicBool,
    /// A communicator could not be left in time: nobody waits for the next.
    pub(super) hurried: AtomicBool,
}

/// Why nothing works any more.
#[derive(Debug, Clone)]
enum Verdict {
    Own(CommError),
    Peer(String),
}

/// A rank's last word to the others.
#[derive(Debug, Serialize, Deserialize)]
struct Alarm {
    rank: usize,
    reason: String,
}

/// A call that is not over in time.
#[derive(Debug, Clone)]
pub(super) struct Overdue {
    pub(super) group: String,
    /// World ranks.
    pub(super) members: Vec<usize>,
    /// This rank's number among them.
    pub(super) rank: usize,
    /// Which call of its communicator, from 1.
    pub(super) number: u64,
    pub(super) operation: &'static str,
    pub(super) what: String,
    pub(super) waited: Duration,
}

impl<B: Backend> Watch<B> {
    pub(super) fn new(backend: B, store: Store, rank: usize, timeout: Duration) -> Self {
        Self {
            backend,
            store,
            rank,
            timeout,
            communicators: Mutex::default(),
            verdict: Mutex::default(),
            changed: Condvar::new(),
            ended: AtomicBool::new(false),
            hurried: AtomicBool::new(false),
        }
    }

    pub(super) fn add(&self, communicator: &Arc<Communicator<B>>) {
        let mut communicators = lock(&self.communicators);
        communicators.retain(|communicator| communicator.strong_count() > 0);
        communicators.push(Arc::downgrade(communicator));
    }

    /// Looks and listens until [`Self::end`], or until something is wrong. `store` is this thread's own: a call that
    /// waits holds the connection.
    pub(super) fn run(&self, store: &Store) {
        while !self.ended.load(Ordering::Acquire) {
            match store.get("alarm", LOOK) {
                Ok(alarm) => return self.hear(store, &alarm),
                Err(FfiError::Deadline { .. }) => {}
                Err(_) if self.ended.load(Ordering::Acquire) => return,
                Err(error) => return self.close(Verdict::Peer(format!("the store of rank 0 is gone: {error}"))),
            }
            for communicator in self.here() {
                match communicator.look() {
                    Ok(()) => {}
                    Err(Trouble::Overdue(overdue)) => {
                        self.raise(store, overdue);
                        return;
                    }
                    Err(Trouble::Broken(error)) => {
                        self.tell(store, &error.to_string());
                        return self.close(Verdict::Own(error));
                    }
                }
            }
        }
    }

    /// Ends the thread of [`Self::run`] at its next look.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// The error of a call that is not over in time. Asks the others how far they came, and ends everything.
    pub(super) fn raise(&self, store: &Store, overdue: Overdue) -> CommError {
        let mut error = CommError::Deadline {
            group: overdue.group.clone(),
            operation: overdue.operation,
            what: overdue.what.clone(),
            rank: overdue.rank,
            waited: overdue.waited,
            arrived: String::new(),
        };
        self.tell(store, error.to_string().trim_end_matches([',', ' ']));
        if let CommError::Deadline { arrived, .. } = &mut error {
            *arrived = arrivals(store, &overdue);
        }
        self.close(Verdict::Own(error.clone()));
        error
    }

    /// Tells all ranks that this one gave up.
    pub(super) fn tell(&self, store: &Store, reason: &str) {
        self.publish(store);
        let alarm = Alarm {
            rank: self.rank,
            reason: reason.into(),
        };
        // Who cannot be told runs into its own deadline.
        let _ = serde_json::to_vec(&alarm).map(|alarm| store.set("alarm", &alarm));
    }

    /// Whether calls may go on.
    ///
    /// # Errors
    /// Why not, for a call of this name.
    pub(super) fn check(&self, group: &str, operation: &'static str) -> Result<(), CommError> {
        match &*lock(&self.verdict) {
            None => Ok(()),
            Some(Verdict::Own(error)) => Err(error.clone()),
            Some(Verdict::Peer(reason)) => Err(CommError::Peer {
                group: group.into(),
                operation,
                reason: reason.clone(),
            }),
        }
    }

    /// Waits a little, or until something is wrong.
    pub(super) fn pause(&self, time: Duration) {
        let verdict = lock(&self.verdict);
        let _ = self
            .changed
            .wait_timeout_while(verdict, time, |verdict| verdict.is_none())
            .unwrap_or_else(PoisonError::into_inner);
    }

    fn here(&self) -> Vec<Arc<Communicator<B>>> {
        lock(&self.communicators).iter().filter_map(Weak::upgrade).collect()
    }

    fn hear(&self, store: &Store, alarm: &[u8]) {
        self.publish(store);
        let reason = match serde_json::from_slice::<Alarm>(alarm) {
            Ok(Alarm { rank, reason }) => format!("rank {rank} gave up: {reason}"),
            Err(error) => format!("an alarm that is none: {error}"),
        };
        self.close(Verdict::Peer(reason));
    }

    /// Tells how many calls of each communicator this rank has started.
    fn publish(&self, store: &Store) {
        let counts: BTreeMap<_, _> = self.here().iter().map(|one| (one.name().to_owned(), one.started())).collect();
        // Who cannot tell is one that does not answer.
        let _ = serde_json::to_vec(&counts).map(|counts| store.set(&counts_of(self.rank), &counts));
    }

    /// The first verdict stands. It is there before the kernels end that wait for a peer: what they leave behind is no
    /// result, and whoever goes on with it meets the verdict at the next call.
    fn close(&self, verdict: Verdict) {
        lock(&self.verdict).get_or_insert(verdict);
        self.changed.notify_all();
        self.here().iter().for_each(|communicator| communicator.abort());
    }
}

/// What a look finds.
#[derive(Debug)]
pub(super) enum Trouble {
    Overdue(Overdue),
    Broken(CommError),
}

fn counts_of(rank: usize) -> String {
    format!("started/{rank}")
}

/// Which ranks of a group had started a call, in words.
fn arrivals(store: &Store, overdue: &Overdue) -> String {
    let asked = Instant::now();
    let (mut arrived, mut silent) = (Vec::new(), Vec::new());
    for (rank, member) in overdue.members.iter().enumerate() {
        let left = ANSWER.saturating_sub(asked.elapsed()).max(LOOK);
        let counts = store.get(&counts_of(*member), left).ok();
        let counts = counts.and_then(|text| serde_json::from_slice::<BTreeMap<String, u64>>(&text).ok());
        match counts {
            None => silent.push(rank),
            Some(counts) if counts.get(&overdue.group).is_some_and(|started| *started >= overdue.number) => arrived.push(rank),
            Some(_) => {}
        }
    }
    let unknown = match silent[..] {
        [] => String::new(),
        _ => format!(", {silent:?} did not answer"),
    };
    format!("of {} ranks only {arrived:?} arrived{unknown}", overdue.members.len())
}

/// A panic of another thread leaves the data whole: every change under a lock is a single assignment.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
