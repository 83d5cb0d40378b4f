//! State of a thread group: collectives in flight, sent tensors, and ranks that have ended.

use super::{Hub, lock};
use crate::comm_error::CommError;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tch::Tensor;

/// State of one group that its ranks share.
pub(super) struct SharedGroup {
    pub(super) name: String,
    /// World ranks.
    pub(super) members: Vec<usize>,
    deadline: Duration,
    pub(super) state: Mutex<GroupState>,
    pub(super) changed: Condvar,
}

impl std::fmt::Debug for SharedGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedGroup")
            .field("name", &self.name)
            .field("members", &self.members)
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
pub(super) struct GroupState {
    /// Collectives in flight, by sequence number.
    collectives: BTreeMap<u64, CollectiveState>,
    /// Tensors that were sent and not received yet, by sender, receiver and tag.
    sent: BTreeMap<(usize, usize, u32), VecDeque<Tensor>>,
    /// World ranks whose threads have ended.
    pub(super) left: Vec<usize>,
}

/// One collective.
#[derive(Default)]
struct CollectiveState {
    /// Tensor of each rank and description of its call.
    inputs: BTreeMap<usize, (Tensor, String)>,
    /// Set once all ranks have contributed.
    outcome: Option<Result<Vec<Tensor>, CommError>>,
    /// Number of ranks that have read the outcome; the last one removes it.
    read: usize,
}

/// Description of a call, for messages.
pub(super) struct Call {
    pub(super) operation: &'static str,
    pub(super) what: String,
    pub(super) rank: usize,
}

impl SharedGroup {
    pub(super) fn new(name: &str, members: &[usize], hub: &Hub) -> Self {
        let left = lock(&hub.left).iter().copied().filter(|rank| members.contains(rank)).collect();
        let state = Mutex::new(GroupState {
            left,
            ..GroupState::default()
        });
        Self {
            name: name.into(),
            members: members.to_vec(),
            deadline: hub.deadline,
            state,
            changed: Condvar::new(),
        }
    }

    /// Adds a rank's tensor to collective `number`.
    pub(super) fn contribute(&self, number: u64, call: &Call, tensor: &Tensor) {
        let mut state = lock(&self.state);
        let entry = state.collectives.entry(number).or_default();
        // A copy: the caller may write to its tensor while a slower rank still reads.
        let called = format!("{} of {}", call.operation, call.what);
        entry.inputs.insert(call.rank, (tensor.detach().copy(), called));
        if entry.inputs.len() == self.members.len() {
            let inputs = std::mem::take(&mut entry.inputs);
            entry.outcome = Some(self.matched_inputs(inputs));
            self.changed.notify_all();
        }
    }

    /// Waits for the tensors of all ranks in collective `number`.
    pub(super) fn collect(&self, number: u64, call: &Call) -> Result<Vec<Tensor>, CommError> {
        self.wait(call, |state| {
            let Some(entry) = state.collectives.get_mut(&number) else {
                return Awaited::Missing((0..self.members.len()).collect());
            };
            let Some(outcome) = &entry.outcome else {
                let absent = (0..self.members.len()).filter(|rank| !entry.inputs.contains_key(rank));
                return Awaited::Missing(absent.collect());
            };
            let outcome = match outcome {
                Ok(tensors) => Ok(tensors.iter().map(Tensor::shallow_clone).collect()),
                Err(error) => Err(error.clone()),
            };
            entry.read += 1;
            if entry.read == self.members.len() {
                state.collectives.remove(&number);
            }
            Awaited::Ready(outcome)
        })
    }

    /// Stores a tensor for another rank.
    pub(super) fn send(&self, from: usize, to: usize, tag: u32, tensor: &Tensor) {
        let copy = tensor.detach().copy();
        lock(&self.state).sent.entry((from, to, tag)).or_default().push_back(copy);
        self.changed.notify_all();
    }

    /// Waits for a tensor from another rank.
    pub(super) fn recv(&self, from: usize, tag: u32, call: &Call) -> Result<Tensor, CommError> {
        let key = (from, call.rank, tag);
        self.wait(call, |state| {
            let Some(queue) = state.sent.get_mut(&key) else {
                return Awaited::Missing(vec![from]);
            };
            let tensor = queue.pop_front();
            if queue.is_empty() {
                state.sent.remove(&key);
            }
            tensor.map_or_else(|| Awaited::Missing(vec![from]), |tensor| Awaited::Ready(Ok(tensor)))
        })
    }

    fn wait<T>(&self, call: &Call, mut poll: impl FnMut(&mut GroupState) -> Awaited<T>) -> Result<T, CommError> {
        let started = Instant::now();
        let mut state = lock(&self.state);
        loop {
            let absent = match poll(&mut state) {
                Awaited::Ready(outcome) => return outcome,
                Awaited::Missing(absent) => absent,
            };
            let gone = absent.iter().map(|rank| self.members[*rank]).find(|rank| state.left.contains(rank));
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
            state = self.changed.wait_timeout(state, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Returns the tensors in rank order if all ranks made the same call.
    fn matched_inputs(&self, inputs: BTreeMap<usize, (Tensor, String)>) -> Result<Vec<Tensor>, CommError> {
        let first = inputs.values().next().map(|(_, call)| call.clone());
        if inputs.values().any(|(_, call)| Some(call) != first.as_ref()) {
            let details = inputs.iter().map(|(rank, (_, call))| format!("rank {rank} calls {call}")).collect();
            return Err(CommError::Mismatch {
                group: self.name.clone(),
                details,
            });
        }
        Ok(inputs.into_values().map(|(tensor, _)| tensor).collect())
    }
}

/// State of an awaited value.
enum Awaited<T> {
    Ready(Result<T, CommError>),
    /// Ranks of the group that have not contributed yet.
    Missing(Vec<usize>),
}
