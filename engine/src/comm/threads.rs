//! Ranks as threads of one process: for parity tests, and for looking at a layout without a cluster.

use super::collective::{Collective, CommError, Fabric, Reduce, describe};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
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
            Some(rank) => Ok(Arc::new(ThreadGroup { room, rank })),
            None => Err(CommError::Strangers(format!(
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
    state: Mutex<Meeting>,
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
struct Meeting {
    round: u64,
    /// What each rank brought to this round, and what it called.
    brought: BTreeMap<usize, (Tensor, String)>,
    /// Result of the last round: kept until the next one ends, which no rank can reach before all have read it.
    taken: Option<Result<Vec<Tensor>, CommError>>,
    /// World ranks whose threads have ended.
    left: Vec<usize>,
}

impl Room {
    fn new(name: &str, members: &[usize], hub: &Hub) -> Self {
        let left = lock(&hub.left).iter().copied().filter(|rank| members.contains(rank)).collect();
        let state = Mutex::new(Meeting {
            left,
            ..Meeting::default()
        });
        Self {
            name: name.into(),
            members: members.to_vec(),
            deadline: hub.deadline,
            state,
            changed: Condvar::new(),
        }
    }

    /// Every rank brings a tensor and takes those of all.
    fn exchange(&self, rank: usize, operation: &'static str, call: String, tensor: &Tensor) -> Result<Vec<Tensor>, CommError> {
        let started = Instant::now();
        let mut meeting = lock(&self.state);
        let round = meeting.round;
        // A copy: the caller may write to its tensor while a slower rank still reads.
        meeting.brought.insert(rank, (tensor.detach().copy(), call));
        if meeting.brought.len() == self.members.len() {
            let brought = std::mem::take(&mut meeting.brought);
            meeting.taken = Some(self.agree(brought));
            meeting.round += 1;
            self.changed.notify_all();
        }
        while meeting.round == round {
            if let Some(left) = meeting.left.first() {
                let reason = format!("rank {left} has ended");
                return Err(CommError::Peer {
                    group: self.name.clone(),
                    operation,
                    reason,
                });
            }
            let waited = started.elapsed();
            let Some(rest) = self.deadline.checked_sub(waited).filter(|rest| !rest.is_zero()) else {
                let arrived: Vec<_> = meeting.brought.keys().collect();
                return Err(CommError::Deadline {
                    group: self.name.clone(),
                    operation,
                    what: describe(tensor),
                    rank,
                    waited,
                    arrived: format!("of {} ranks only {arrived:?} arrived", self.members.len()),
                });
            };
            meeting = self.changed.wait_timeout(meeting, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
        match &meeting.taken {
            Some(Ok(tensors)) => Ok(tensors.iter().map(Tensor::shallow_clone).collect()),
            Some(Err(error)) => Err(error.clone()),
            None => Ok(Vec::new()),
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

/// A rank's view of a [`Room`].
#[derive(Debug)]
struct ThreadGroup {
    room: Arc<Room>,
    rank: usize,
}

impl ThreadGroup {
    fn exchange(&self, operation: &'static str, tensor: &Tensor) -> Result<Vec<Tensor>, CommError> {
        let call = format!("{operation} of {}", describe(tensor));
        self.room.exchange(self.rank, operation, call, tensor)
    }
}

impl Collective for ThreadGroup {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.room.members.len()
    }

    fn all_reduce(&self, tensor: &Tensor, reduce: Reduce) -> Result<(), CommError> {
        let operation = match reduce {
            Reduce::Sum => "all_reduce(sum)",
            Reduce::Max => "all_reduce(max)",
        };
        let brought = self.exchange(operation, tensor)?;
        // In the ranks' order, so that all ranks get the same bits.
        let combined = tch::no_grad(|| match reduce {
            Reduce::Sum => brought.iter().skip(1).fold(brought[0].copy(), |sum, other| sum + other),
            Reduce::Max => brought.iter().skip(1).fold(brought[0].copy(), |max, other| max.maximum(other)),
        });
        tch::no_grad(|| tensor.shallow_clone().copy_(&combined));
        Ok(())
    }

    fn all_gather(&self, tensor: &Tensor) -> Result<Vec<Tensor>, CommError> {
        self.exchange("all_gather", tensor)
    }

    fn reduce_scatter(&self, tensor: &Tensor) -> Result<Tensor, CommError> {
        let brought = self.exchange("reduce_scatter(sum)", tensor)?;
        let rank = self.rank as i64;
        let parts = brought.iter().map(|tensor| tensor.select(0, rank));
        // In the ranks' order, so that a part has the same bits wherever it is summed.
        Ok(parts.reduce(|sum, part| sum + part).unwrap_or_else(|| tensor.select(0, rank)))
    }

    fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<(), CommError> {
        let brought = self.exchange("broadcast", tensor)?;
        tch::no_grad(|| tensor.shallow_clone().copy_(&brought[root]));
        Ok(())
    }
}

/// A panic of another rank leaves the data whole: every change under the lock is a single assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
