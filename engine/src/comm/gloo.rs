//! Ranks as processes, over PyTorch's own c10d and Gloo.

use super::collective::{Collective, CommError, Fabric, Reduce, describe};
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
            return Err(CommError::Strangers(format!(
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
    fn wait(&self, operation: &'static str, tensor: &Tensor, work: Result<Work, FfiError>) -> Result<(), CommError> {
        work.and_then(|mut work| work.wait(self.timeout))
            .map_err(|error| transport(&self.name, operation, describe(tensor), self.group.rank(), error))
    }
}

impl Collective for Group {
    fn rank(&self) -> usize {
        self.group.rank()
    }

    fn size(&self) -> usize {
        self.group.size()
    }

    fn all_reduce(&self, tensor: &Tensor, reduce: Reduce) -> Result<(), CommError> {
        let (operation, op) = match reduce {
            Reduce::Sum => ("all_reduce(sum)", ReduceOp::Sum),
            Reduce::Max => ("all_reduce(max)", ReduceOp::Max),
        };
        self.wait(operation, tensor, self.group.all_reduce(tensor, op))
    }

    fn all_gather(&self, tensor: &Tensor) -> Result<Vec<Tensor>, CommError> {
        let tensor = tensor.detach().contiguous();
        let mut size = vec![self.size() as i64];
        size.extend(tensor.size());
        let gathered = Tensor::zeros(&size, (tensor.kind(), tensor.device()));
        let flat = gathered.view([-1]);
        self.wait("all_gather", &tensor, self.group.all_gather_into(&flat, &tensor.view([-1])))?;
        Ok(gathered.unbind(0))
    }

    fn reduce_scatter(&self, tensor: &Tensor) -> Result<Tensor, CommError> {
        let tensor = tensor.detach().contiguous();
        let part = tensor.select(0, 0).zeros_like();
        let work = self.group.reduce_scatter(&part.view([-1]), &tensor.view([-1]), ReduceOp::Sum);
        self.wait("reduce_scatter(sum)", &tensor, work)?;
        Ok(part)
    }

    fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<(), CommError> {
        self.wait("broadcast", tensor, self.group.broadcast(tensor, root))
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
