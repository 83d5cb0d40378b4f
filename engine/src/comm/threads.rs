//! Process groups over threads of one process: for parity tests, and for simulating a layout without a cluster.

mod group;
mod shared_group;

use super::process_group::{ProcessGroup, ProcessGroupFactory};
use crate::comm_error::CommError;
use group::ThreadGroup;
use shared_group::SharedGroup;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Runs `body` on `world` threads, each with its own factory, and returns their values in rank order.
/// If one of them fails or panics, the waits of its peers end with an error at once.
///
/// # Panics
/// Panics after all threads have ended if a body panicked, with the first panic.
pub fn run_ranks<T: Send>(world: usize, deadline: Duration, body: impl Fn(ThreadFactory) -> T + Sync) -> Vec<T> {
    let hub = Arc::new(Hub {
        world,
        deadline,
        groups: Mutex::default(),
        left: Mutex::default(),
    });
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..world)
            .map(|rank| {
                let (hub, body) = (hub.clone(), &body);
                scope.spawn(move || {
                    let outcome = catch_unwind(AssertUnwindSafe(|| body(ThreadFactory { hub: hub.clone(), rank })));
                    // A rank that has ended joins no later call.
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

/// Factory of the process groups of one thread.
#[derive(Debug, Clone)]
pub struct ThreadFactory {
    hub: Arc<Hub>,
    rank: usize,
}

#[derive(Debug)]
struct Hub {
    world: usize,
    deadline: Duration,
    groups: Mutex<BTreeMap<String, Arc<SharedGroup>>>,
    /// Ranks whose threads have ended. Lock order: `groups`, then `left`, then the state of a group.
    left: Mutex<Vec<usize>>,
}

impl Hub {
    fn leave(&self, rank: usize) {
        let groups = lock(&self.groups);
        lock(&self.left).push(rank);
        for group in groups.values().filter(|group| group.members.contains(&rank)) {
            lock(&group.state).left.push(rank);
            group.changed.notify_all();
        }
    }
}

impl ProcessGroupFactory for ThreadFactory {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.hub.world
    }

    fn group(&self, name: &str, members: &[usize]) -> Result<Arc<dyn ProcessGroup>, CommError> {
        let mut groups = lock(&self.hub.groups);
        let group = groups
            .entry(name.to_owned())
            .or_insert_with(|| Arc::new(SharedGroup::new(name, members, &self.hub)))
            .clone();
        let rank = members.iter().position(|member| *member == self.rank);
        match rank {
            Some(rank) => Ok(Arc::new(ThreadGroup::new(group, rank))),
            None => Err(CommError::Bug(format!(
                "rank {} is not among the members {members:?} of `{name}`",
                self.rank
            ))),
        }
    }
}

/// Locks `mutex`. A panic of another rank leaves the data consistent: every change is a single assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
