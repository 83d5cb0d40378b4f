//! Process groups over Gloo, through PyTorch's c10d. Each rank is a process.

use super::process_group::{ProcessGroup, ProcessGroupFactory, Reduce, Work, describe};
use super::sequence_numbers::SequenceNumbers;
use crate::comm_error::CommError;
use neva_torch_ffi::{Bind, Error as FfiError, GlooGroup, GlooOptions, ReduceOp, Store, Work as GlooWork};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tch::Tensor;

/// Makes Gloo process groups for a rank that is connected to the store.
#[derive(Debug)]
pub struct GlooFactory {
    store: Arc<Store>,
    rank: usize,
    world: usize,
    timeout: Duration,
    bind: Bind,
}

impl GlooFactory {
    /// Creates the factory of rank `rank`. `bind` is the address at which the other ranks reach it.
    pub fn new(store: Store, rank: usize, world: usize, timeout: Duration, bind: Bind) -> Self {
        Self {
            store: Arc::new(store),
            rank,
            world,
            timeout,
            bind,
        }
    }
}

impl ProcessGroupFactory for GlooFactory {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn group(&self, name: &str, members: &[usize]) -> Result<Arc<dyn ProcessGroup>, CommError> {
        let Some(rank) = members.iter().position(|member| *member == self.rank) else {
            return Err(CommError::Bug(format!(
                "rank {} is not among the members {members:?} of `{name}`",
                self.rank
            )));
        };
        let options = GlooOptions {
            name: name.to_owned(),
            rank,
            size: members.len(),
            timeout: self.timeout,
            bind: self.bind.clone(),
            check: false,
        };
        let sequence = SequenceNumbers::new(self.store.clone(), name, rank, members.len());
        let connecting = SequenceNumbers::new(self.store.clone(), &format!("{name}/connect"), rank, members.len());
        connecting.publish(1);
        let group = GlooGroup::new(&self.store, &options).map_err(|error| {
            let arrived = || connecting.report(1);
            transport(name, "connect", String::new(), rank, error, arrived)
        })?;
        Ok(Arc::new(Group {
            name: name.to_owned(),
            group,
            timeout: self.timeout,
            sequence,
            started: AtomicU64::new(0),
        }))
    }
}

#[derive(Debug)]
struct Group {
    name: String,
    group: GlooGroup,
    timeout: Duration,
    sequence: SequenceNumbers,
    /// Number of collectives started. Every rank starts the same ones in the same order.
    started: AtomicU64,
}

impl Group {
    /// Starts a collective.
    fn collective(
        &self,
        operation: &'static str,
        tensor: &Tensor,
        start: impl FnOnce(&GlooGroup) -> Result<GlooWork, FfiError>,
    ) -> Result<Work, CommError> {
        let number = self.started.fetch_add(1, Ordering::Relaxed) + 1;
        let sequence = self.sequence.clone();
        self.work(operation, tensor, start(&self.group), move || sequence.report(number))
    }

    /// Starts a transfer. `missed` is the error text if the peer never joins it.
    fn transfer(
        &self,
        operation: &'static str,
        tensor: &Tensor,
        work: Result<GlooWork, FfiError>,
        missed: String,
    ) -> Result<Work, CommError> {
        self.work(operation, tensor, work, move || missed)
    }

    fn work(
        &self,
        operation: &'static str,
        tensor: &Tensor,
        work: Result<GlooWork, FfiError>,
        arrived: impl FnOnce() -> String + Send + 'static,
    ) -> Result<Work, CommError> {
        let (name, what, rank, timeout) = (self.name.clone(), describe(tensor), self.group.rank(), self.timeout);
        let (sequence, started) = (self.sequence.clone(), self.started.load(Ordering::Relaxed));
        let failed = move |error| {
            // Ranks that wait for this one read the count next.
            sequence.publish(started);
            transport(&name, operation, what, rank, error, arrived)
        };
        let mut work = match work {
            Ok(work) => work,
            Err(error) => return Err(failed(error)),
        };
        Ok(Work::new(move || work.wait(timeout).map_err(failed)))
    }
}

impl ProcessGroup for Group {
    fn rank(&self) -> usize {
        self.group.rank()
    }

    fn size(&self) -> usize {
        self.group.size()
    }

    fn start_all_reduce(&self, tensor: &Tensor, reduce: Reduce) -> Result<Work, CommError> {
        let (operation, op) = match reduce {
            Reduce::Sum => ("all_reduce(sum)", ReduceOp::Sum),
            Reduce::Max => ("all_reduce(max)", ReduceOp::Max),
        };
        self.collective(operation, tensor, |group| group.all_reduce(tensor, op))
    }

    fn start_all_gather(&self, into: &Tensor, tensor: &Tensor) -> Result<Work, CommError> {
        self.collective("all_gather", tensor, |group| {
            group.all_gather_into(&into.view([-1]), &tensor.view([-1]))
        })
    }

    fn start_reduce_scatter(&self, into: &Tensor, tensor: &Tensor) -> Result<Work, CommError> {
        self.collective("reduce_scatter(sum)", tensor, |group| {
            group.reduce_scatter(&into.view([-1]), &tensor.view([-1]), ReduceOp::Sum)
        })
    }

    fn start_broadcast(&self, tensor: &Tensor, root: usize) -> Result<Work, CommError> {
        self.collective("broadcast", tensor, |group| group.broadcast(tensor, root))
    }

    fn send(&self, tensor: &Tensor, to: usize, tag: u32) -> Result<Work, CommError> {
        let work = self.group.send(&tensor.detach(), to, tag);
        self.transfer("send", tensor, work, format!("rank {to} did not receive"))
    }

    fn recv(&self, into: &Tensor, from: usize, tag: u32) -> Result<Work, CommError> {
        let work = self.group.recv(into, from, tag);
        self.transfer("recv", into, work, format!("rank {from} did not send"))
    }
}

/// Converts an error of c10d. `arrived` describes which ranks had arrived.
fn transport(
    group: &str,
    operation: &'static str,
    what: String,
    rank: usize,
    error: FfiError,
    arrived: impl FnOnce() -> String,
) -> CommError {
    match error {
        FfiError::Deadline { after, .. } => CommError::Deadline {
            group: group.into(),
            operation,
            what,
            rank,
            waited: after,
            arrived: arrived(),
        },
        other => CommError::Transport {
            group: group.into(),
            operation,
            reason: other.to_string(),
        },
    }
}
