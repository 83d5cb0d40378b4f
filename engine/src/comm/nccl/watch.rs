//! A rank's eye on its communicators. NCCL's calls return before they are done, and a kernel whose peer does not come
//! spins for ever. So one thread of each rank looks for calls that are too old and for broken communicators, and another
//! listens for an alarm of another rank: a store that hangs does not hold up the first. Either ends all communicators of
//! this rank, so that nothing waits, and every later call says why.

use super::backend::Backend;
use super::communicator::Communicator;
use crate::comm::CommError;
use neva_torch_ffi::Store;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
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
    /// For communicators that are formed: a call that waits holds the connection.
    pub(super) store: Store,
    /// For alarms.
    alarms: Store,
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
    pub(super) fn new(backend: B, store: Store, alarms: Store, rank: usize, timeout: Duration) -> Self {
        Self {
            backend,
            store,
            alarms,
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

    /// Looks at all communicators until [`Self::end`], or until something is wrong.
    pub(super) fn look(self: &Arc<Self>) {
        while self.pause(LOOK) {
            for communicator in self.here() {
                match communicator.look() {
                    Ok(()) => {}
                    Err(Trouble::Overdue(overdue)) => drop(self.raise(overdue)),
                    Err(Trouble::Broken(error)) => {
                        self.tell(error.to_string());
                        self.close(Verdict::Own(error));
                    }
                }
            }
        }
    }

    /// Listens for an alarm of another rank, as long as [`Self::look`] looks.
    pub(super) fn listen(&self) {
        while self.pause(LOOK) {
            let alarm = match self.alarms.check(&["alarm"]) {
                Ok(false) => continue,
                Ok(true) => self.alarms.get("alarm", ANSWER),
                Err(error) => Err(error),
            };
            let reason = match alarm.map(|alarm| serde_json::from_slice::<Alarm>(&alarm)) {
                // Its verdict is on its way.
                Ok(Ok(Alarm { rank, .. })) if rank == self.rank => continue,
                Ok(Ok(Alarm { rank, reason })) => format!("rank {rank} gave up: {reason}"),
                Ok(Err(error)) => format!("an alarm that is none: {error}"),
                Err(error) => format!("the store of rank 0 is gone: {error}"),
            };
            self.publish();
            self.close(Verdict::Peer(reason));
        }
    }

    /// Ends both threads.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        // Under the lock, so that no thread is between its look and its wait.
        drop(lock(&self.verdict));
        self.changed.notify_all();
    }

    /// The error of a call that is not over in time. Asks the others how far they came, and ends everything.
    pub(super) fn raise(self: &Arc<Self>, overdue: Overdue) -> CommError {
        let mut error = CommError::Deadline {
            group: overdue.group.clone(),
            operation: overdue.operation,
            what: overdue.what.clone(),
            rank: overdue.rank,
            waited: overdue.waited,
            arrived: String::new(),
        };
        let (watch, reason) = (self.clone(), error.to_string());
        let answers = within(2 * ANSWER, move || {
            watch.alarm(reason.trim_end_matches([',', ' ']));
            arrivals(&watch.alarms, &overdue)
        });
        if let CommError::Deadline { arrived, .. } = &mut error {
            *arrived = answers.unwrap_or_else(|| "the store of rank 0 does not say who arrived".into());
        }
        self.close(Verdict::Own(error.clone()));
        error
    }

    /// Tells all ranks that this one gave up.
    pub(super) fn tell(self: &Arc<Self>, reason: String) {
        let watch = self.clone();
        // Who cannot be told runs into its own deadline.
        let _ = within(ANSWER, move || watch.alarm(&reason));
    }

    fn alarm(&self, reason: &str) {
        self.publish();
        let alarm = Alarm {
            rank: self.rank,
            reason: reason.into(),
        };
        // As for `tell`.
        let _ = serde_json::to_vec(&alarm).map(|alarm| self.alarms.set("alarm", &alarm));
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

    /// Waits a little; whether nothing was wrong meanwhile, and it goes on.
    pub(super) fn pause(&self, time: Duration) -> bool {
        let ended = || self.ended.load(Ordering::Acquire);
        let (verdict, _) = self
            .changed
            .wait_timeout_while(lock(&self.verdict), time, |verdict| verdict.is_none() && !ended())
            .unwrap_or_else(PoisonError::into_inner);
        verdict.is_none() && !ended()
    }

    fn here(&self) -> Vec<Arc<Communicator<B>>> {
        lock(&self.communicators).iter().filter_map(Weak::upgrade).collect()
    }

    /// Tells how many calls of each communicator this rank has started.
    fn publish(&self) {
        let counts: BTreeMap<_, _> = self.here().iter().map(|one| (one.name().to_owned(), one.started())).collect();
        // Who cannot tell is one that does not answer.
        let _ = serde_json::to_vec(&counts).map(|counts| self.alarms.set(&counts_of(self.rank), &counts));
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

/// What `body` gives, if it does so in time. The store's calls have no deadline where its machine is gone.
fn within<T: Send + 'static>(limit: Duration, body: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, outcome) = channel();
    // Nobody waits for an outcome that comes too late.
    let thread = std::thread::Builder::new()
        .name("nccl-alarm".into())
        .spawn(move || drop(done.send(body())));
    thread.ok().and_then(|_| outcome.recv_timeout(limit).ok())
}

/// A panic of another thread leaves the data whole: every change under a lock is a single assignment.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
