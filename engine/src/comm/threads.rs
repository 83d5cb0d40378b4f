//! Ranks as threads of one process: for parity tests, and for looking at a layout without a cluster.

use super::collective::{Collective, CommError, Fabric, Pending, Reduce, describe, write};
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tch::Tensor;

/// Runs `body` on `world` threads, each with its own fabric, and returns what they returned, by rank.
/// When one of them fails or panics, its peers' waits end with an error at once.
///
/// # Panics
/// When a body panics: after all threads have ended, with the first panic.
pub fn run_ranks<T: Send>(world: usize, deadline: Duration, body: impl Fn(ThreadFabric) -> T + Sync) -> Vec<T> {
    let hub = Arc::new(Hub {
        world,
        deadline,
        rooms: Mutex::default(),
        left: Mutex::default(),
    });
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..world)
            .map(|rank| {
                let (hub, body) = (hub.clone(), &body);
                scope.spawn(move || {
                    let outcome = catch_unwind(AssertUnwindSafe(|| body(ThreadFabric { hub: hub.clone(), rank })));
                    // Whoever leaves will not come to any later meeting.
                    hub.leave(rank);
                    outcome
                })
            })
            .collect();
        handles.into_iter().map(|handle| handle.join().unwrap_or_else(Err)).collect()
    });
    outcomes
        .into_iter()
        .map(|outcome| outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        .collect()
}

/// A rank that is a thread.
#[derive(Debug, Clone)]
pub struct ThreadFabric {
    hub: Arc<Hub>,
    rank: usize,
}

#[derive(Debug)]
struct Hub {
    world: usize,
    deadline: Duration,
    rooms: Mutex<BTreeMap<String, Arc<Room>>>,
    /// Ranks whose threads have ended. Lock order: `rooms`, then `left`, then a room's state.
    left: Mutex<Vec<usize>>,
}

impl Hub {
    fn leave(&self, rank: usize) {
        let rooms = lock(&self.rooms);
        lock(&self.left).push(rank);
        for room in rooms.values().filter(|room| room.members.contains(&rank)) {
            lock(&room.state).left.push(rank);
            room.changed.notify_all();
        }
    }
}

impl Fabric for ThreadFabric {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.hub.world
    }

    fn group(&self, name: &str, members: &[usize]) -> Result<Arc<dyn Collective>, CommError> {
        let mut rooms = lock(&self.hub.rooms);
        let room = rooms
            .entry(name.to_owned())
            .or_insert_with(|| Arc::new(Room::new(name, members, &self.hub)))
            .clone();
        let rank = members.iter().position(|member| *member == self.rank);
        match rank {
            Some(rank) => Ok(Arc::new(ThreadGroup {
                room,
                rank,
                started: AtomicU64::new(0),
            })),
            None => Err(CommError::Bug(format!(
                "rank {} is not among the members {members:?} of `{name}`",
                self.rank
            ))),
        }
    }
}

/// Where the ranks of one group meet.
struct Room {
    name: String,
    members: Vec<usize>,
    deadline: Duration,
    state: Mutex<Meetings>,
    changed: Condvar,
}

impl std::fmt::Debug for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Room")
            .field("name", &self.name)
            .field("members", &self.members)
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Meetings {
    /// Collectives that are under way, in the order in which each rank starts them.
    rounds: BTreeMap<u64, Round>,
    /// Transfers that nobody has taken yet, by sender, receiver and tag.
    sent: BTreeMap<(usize, usize, u32), VecDeque<Tensor>>,
    /// World ranks whose threads have ended.
    left: Vec<usize>,
}

#[derive(Default)]
struct Round {
    /// What each rank brought, and what it called.
    brought: BTreeMap<usize, (Tensor, String)>,
    /// There once all ranks have brought theirs.
    outcome: Option<Result<Vec<Tensor>, CommError>>,
    /// Ranks that have read the outcome: the last one takes it away.
    read: usize,
}

/// What is waited for, in words.
struct Call {
    operation: &'static str,
    what: String,
    rank: usize,
}

impl Room {
    fn new(name: &str, members: &[usize], hub: &Hub) -> Self {
        let left = lock(&hub.left).iter().copied().filter(|rank| members.contains(rank)).collect();
        let state = Mutex::new(Meetings {
            left,
            ..Meetings::default()
        });
        Self {
            name: name.into(),
            members: members.to_vec(),
            deadline: hub.deadline,
            state,
            changed: Condvar::new(),
        }
    }

    /// Brings a rank's tensor to a round.
    fn bring(&self, round: u64, call: &Call, tensor: &Tensor) {
        let mut meetings = lock(&self.state);
        let entry = meetings.rounds.entry(round).or_default();
        // A copy: the caller may write to its tensor while a slower rank still reads.
        let called = format!("{} of {}", call.operation, call.what);
        entry.brought.insert(call.rank, (tensor.detach().copy(), called));
        if entry.brought.len() == self.members.len() {
            let brought = std::mem::take(&mut entry.brought);
            entry.outcome = Some(self.agree(brought));
            self.changed.notify_all();
        }
    }

    /// Waits for what all ranks brought to a round.
    fn take(&self, round: u64, call: &Call) -> Result<Vec<Tensor>, CommError> {
        self.wait(call, |meetings| {
            let Some(entry) = meetings.rounds.get_mut(&round) else {
                return Awaited::From((0..self.members.len()).collect());
            };
            let Some(outcome) = &entry.outcome else {
                let absent = (0..self.members.len()).filter(|rank| !entry.brought.contains_key(rank));
                return Awaited::From(absent.collect());
            };
            let outcome = match outcome {
                Ok(tensors) => Ok(tensors.iter().map(Tensor::shallow_clone).collect()),
                Err(error) => Err(error.clone()),
            };
            entry.read += 1;
            if entry.read == self.members.len() {
                meetings.rounds.remove(&round);
            }
            Awaited::Here(outcome)
        })
    }

    /// Leaves a tensor for another rank.
    fn post(&self, from: usize, to: usize, tag: u32, tensor: &Tensor) {
        let copy = tensor.detach().copy();
        lock(&self.state).sent.entry((from, to, tag)).or_default().push_back(copy);
        self.changed.notify_all();
    }

    /// Waits for a tensor that another rank sends.
    fn fetch(&self, from: usize, tag: u32, call: &Call) -> Result<Tensor, CommError> {
        let key = (from, call.rank, tag);
        self.wait(call, |meetings| {
            let Some(queue) = meetings.sent.get_mut(&key) else {
                return Awaited::From(vec![from]);
            };
            let tensor = queue.pop_front();
            if queue.is_empty() {
                meetings.sent.remove(&key);
            }
            tensor.map_or_else(|| Awaited::From(vec![from]), |tensor| Awaited::Here(Ok(tensor)))
        })
    }

    fn wait<T>(&self, call: &Call, mut look: impl FnMut(&mut Meetings) -> Awaited<T>) -> Result<T, CommError> {
        let started = Instant::now();
        let mut meetings = lock(&self.state);
        loop {
            let absent = match look(&mut meetings) {
                Awaited::Here(outcome) => return outcome,
                Awaited::From(absent) => absent,
            };
            let gone = absent
                .iter()
                .map(|rank| self.members[*rank])
                .find(|rank| meetings.left.contains(rank));
            if let Some(gone) = gone {
                return Err(CommError::Peer {
                    group: self.name.clone(),
                    operation: call.operation,
                    reason: format!("rank {gone} has ended"),
                });
            }
            let waited = started.elapsed();
            let Some(rest) = self.deadline.checked_sub(waited).filter(|rest| !rest.is_zero()) else {
                let ranks = self.members.len();
                let arrived: Vec<_> = (0..ranks).filter(|rank| !absent.contains(rank)).collect();
                return Err(CommError::Deadline {
                    group: self.name.clone(),
                    operation: call.operation,
                    what: call.what.clone(),
                    rank: call.rank,
                    waited,
                    arrived: format!("of {ranks} ranks only {arrived:?} arrived"),
                });
            };
            meetings = self.changed.wait_timeout(meetings, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn agree(&self, brought: BTreeMap<usize, (Tensor, String)>) -> Result<Vec<Tensor>, CommError> {
        let first = brought.values().next().map(|(_, call)| call.clone());
        if brought.values().any(|(_, call)| Some(call) != first.as_ref()) {
            let details = brought
                .iter()
                .map(|(rank, (_, call))| format!("rank {rank} calls {call}"))
                .collect();
            return Err(CommError::Mismatch {
                group: self.name.clone(),
                details,
            });
        }
        Ok(brought.into_values().map(|(tensor, _)| tensor).collect())
    }
}

/// What a rank finds when it looks.
enum Awaited<T> {
    Here(Result<T, CommError>),
    /// Not yet: these ranks of the group have not come.
    From(Vec<usize>),
}

/// A rank's view of a [`Room`].
#[derive(Debug)]
struct ThreadGroup {
    room: Arc<Room>,
    rank: usize,
    /// Collectives that this rank has started.
    started: AtomicU64,
}

impl ThreadGroup {
    fn call(&self, operation: &'static str, tensor: &Tensor) -> Call {
        Call {
            operation,
            what: describe(tensor),
            rank: self.rank,
        }
    }

    /// Brings `tensor`; `finish` is given those of all ranks.
    fn start(&self, operation: &'static str, tensor: &Tensor, finish: impl FnOnce(Vec<Tensor>) + Send + 'static) -> Pending {
        let (room, call) = (self.room.clone(), self.call(operation, tensor));
        let round = self.started.fetch_add(1, Ordering::Relaxed);
        room.bring(round, &call, tensor);
        Pending::new(move || {
            finish(room.take(round, &call)?);
            Ok(())
        })
    }
}

impl Collective for ThreadGroup {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.room.members.len()
    }

    fn start_all_reduce(&self, tensor: &Tensor, reduce: Reduce) -> Result<Pending, CommError> {
        let operation = match reduce {
            Reduce::Sum => "all_reduce(sum)",
            Reduce::Max => "all_reduce(max)",
        };
        let into = tensor.detach();
        Ok(self.start(operation, tensor, move |brought| {
            // In the ranks' order, so that all ranks get the same bits.
            let combined = tch::no_grad(|| match reduce {
                Reduce::Sum => brought.iter().skip(1).fold(brought[0].copy(), |sum, other| sum + other),
                Reduce::Max => brought.iter().skip(1).fold(brought[0].copy(), |max, other| max.maximum(other)),
            });
            write(&into, &combined);
        }))
    }

    fn start_all_gather(&self, into: &Tensor, tensor: &Tensor) -> Result<Pending, CommError> {
        let into = into.detach();
        Ok(self.start("all_gather", tensor, move |brought| write(&into, &Tensor::stack(&brought, 0))))
    }

    fn start_reduce_scatter(&self, into: &Tensor, tensor: &Tensor) -> Result<Pending, CommError> {
        let (into, rank) = (into.detach(), self.rank as i64);
        Ok(self.start("reduce_scatter(sum)", tensor, move |brought| {
            // In the ranks' order, so that a part has the same bits wherever it is summed.
            let sum = tch::no_grad(|| brought.iter().map(|tensor| tensor.select(0, rank)).reduce(|sum, part| sum + part));
            sum.into_iter().for_each(|sum| write(&into, &sum));
        }))
    }

    fn start_broadcast(&self, tensor: &Tensor, root: usize) -> Result<Pending, CommError> {
        let into = tensor.detach();
        Ok(self.start("broadcast", tensor, move |brought| write(&into, &brought[root])))
    }

    fn send(&self, tensor: &Tensor, to: usize, tag: u32) -> Result<Pending, CommError> {
        self.room.post(self.rank, to, tag, tensor);
        Ok(Pending::done())
    }

    fn recv(&self, into: &Tensor, from: usize, tag: u32) -> Result<Pending, CommError> {
        let (room, call, into) = (self.room.clone(), self.call("recv", into), into.detach());
        Ok(Pending::new(move || {
            let sent = room.fetch(from, tag, &call)?;
            if (sent.kind(), sent.size()) != (into.kind(), into.size()) {
                return Err(CommError::Mismatch {
                    group: room.name.clone(),
                    details: vec![
                        format!("rank {from} sends {}", describe(&sent)),
                        format!("rank {} expects {}", call.rank, call.what),
                    ],
                });
            }
            write(&into, &sent);
            Ok(())
        }))
    }
}

/// A panic of another rank leaves the data whole: every change under the lock is a single assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
