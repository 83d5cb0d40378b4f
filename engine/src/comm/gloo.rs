//! Ranks as processes, over PyTorch's own c10d and Gloo.

use super::collective::{Collective, CommError, Fabric, Pending, Reduce, describe};
use neva_torch_ffi::{Bind, Error as FfiError, GlooGroup, GlooOptions, ReduceOp, Store, Work};
use std::sync::Arc;
use std::time::Duration;
use tch::Tensor;

/// A rank that is a process and has met the others at a store.
#[derive(Debug)]
pub struct GlooFabric {
    store: Store,
    rank: usize,
    world: usize,
    timeout: Duration,
    bind: Bind,
}

impl GlooFabric {
    /// `bind` is where the other ranks reach this one.
    pub fn new(store: Store, rank: usize, world: usize, timeout: Duration, bind: Bind) -> Self {
        Self {
            store,
            rank,
            world,
            timeout,
            bind,
        }
    }
}

impl Fabric for GlooFabric {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn group(&self, name: &str, members: &[usize]) -> Result<Arc<dyn Collective>, CommError> {
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
        let group = GlooGroup::new(&self.store, &options).map_err(|error| transport(name, "connect", String::new(), rank, error))?;
        Ok(Arc::new(Group {
            name: name.to_owned(),
            group,
            timeout: self.timeout,
        }))
    }
}

#[derive(Debug)]
struct Group {
    name: String,
    group: GlooGroup,
    timeout: Duration,
}

impl Group {
    fn pending(&self, operation: &'static str, tensor: &Tensor, work: Result<Work, FfiError>) -> Result<Pending, CommError> {
        let (name, what, rank, timeout) = (self.name.clone(), describe(tensor), self.group.rank(), self.timeout);
        let mut work = work.map_err(|error| transport(&name, operation, what.clone(), rank, error))?;
        Ok(Pending::new(move || {
            work.wait(timeout).map_err(|error| transport(&name, operation, what, rank, error))
        }))
    }
}

impl Collective for Group {
    fn rank(&self) -> usize {
        self.group.rank()
    }

    fn size(&self) -> usize {
        self.group.size()
    }

    fn start_all_reduce(&self, tensor: &Tensor, reduce: Reduce) -> Result<Pending, CommError> {
        let (operation, op) = match reduce {
            Reduce::Sum => ("all_reduce(sum)", ReduceOp::Sum),
            Reduce::Max => ("all_reduce(max)", ReduceOp::Max),
        };
        self.pending(operation, tensor, self.group.all_reduce(tensor, op))
    }

    fn start_all_gather(&self, into: &Tensor, tensor: &Tensor) -> Result<Pending, CommError> {
        self.pending(
            "all_gather",
            tensor,
            self.group.all_gather_into(&into.view([-1]), &tensor.view([-1])),
        )
    }

    fn start_reduce_scatter(&self, into: &Tensor, tensor: &Tensor) -> Result<Pending, CommError> {
        let work = self.group.reduce_scatter(&into.view([-1]), &tensor.view([-1]), ReduceOp::Sum);
        self.pending("reduce_scatter(sum)", tensor, work)
    }

    fn start_broadcast(&self, tensor: &Tensor, root: usize) -> Result<Pending, CommError> {
        self.pending("broadcast", tensor, self.group.broadcast(tensor, root))
    }

    fn send(&self, tensor: &Tensor, to: usize, tag: u32) -> Result<Pending, CommError> {
        self.pending("send", tensor, self.group.send(&tensor.detach(), to, tag))
    }

    fn recv(&self, into: &Tensor, from: usize, tag: u32) -> Result<Pending, CommError> {
        self.pending("recv", into, self.group.recv(into, from, tag))
    }
}

fn transport(group: &str, operation: &'static str, what: String, rank: usize, error: FfiError) -> CommError {
    match error {
        FfiError::Deadline { after, message, .. } => CommError::Deadline {
            group: group.into(),
            operation,
            what,
            rank,
            waited: after,
            arrived: message,
        },
        other => CommError::Transport {
            group: group.into(),
            operation,
            reason: other.to_string(),
        },
    }
}
