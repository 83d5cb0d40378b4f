//! Process groups: collectives and transfers among a group of ranks.

use crate::comm_error::CommError;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;
use tch::Tensor;

/// Reduction of [`ProcessGroup::all_reduce`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduce {
    /// Sum over the ranks.
    Sum,
    /// Maximum over the ranks.
    Max,
}

/// One group of ranks. Every rank of the group starts the same collectives in the same order with tensors of the same
/// shape and kind. Whether one is started depends on configuration, never on data. Transfers between two ranks are
/// matched by their tag, in any order.
///
/// Operations are asynchronous: their tensors may be read or changed again after [`Work::wait`].
pub trait ProcessGroup: Send + Sync + Debug {
    /// Returns this rank's number within the group.
    fn rank(&self) -> usize;

    /// Returns the number of ranks in the group.
    fn size(&self) -> usize;

    /// Replaces `tensor` (contiguous) by the reduction over all ranks.
    ///
    /// # Errors
    /// The transport refused.
    fn start_all_reduce(&self, tensor: &Tensor, reduce: Reduce) -> Result<Work, CommError>;

    /// Fills `into` `[size, ..]` (contiguous) with the `tensor` `[..]` (contiguous) of each rank, in rank order.
    ///
    /// # Errors
    /// The transport refused.
    fn start_all_gather(&self, into: &Tensor, tensor: &Tensor) -> Result<Work, CommError>;

    /// Fills `into` `[..]` with this rank's shard of the sum of `tensor` `[size, ..]` over all ranks; both contiguous.
    ///
    /// # Errors
    /// The transport refused.
    fn start_reduce_scatter(&self, into: &Tensor, tensor: &Tensor) -> Result<Work, CommError>;

    /// Replaces `tensor` (contiguous) by that of rank `root`.
    ///
    /// # Errors
    /// The transport refused.
    fn start_broadcast(&self, tensor: &Tensor, root: usize) -> Result<Work, CommError>;

    /// Sends `tensor` (contiguous) to the rank `to`, which receives it by the same `tag`.
    ///
    /// # Errors
    /// The transport refused.
    fn send(&self, tensor: &Tensor, to: usize, tag: u32) -> Result<Work, CommError>;

    /// Fills `into` (contiguous) with the tensor that the rank `from` sends by the same `tag`.
    ///
    /// # Errors
    /// The transport refused.
    fn recv(&self, into: &Tensor, from: usize, tag: u32) -> Result<Work, CommError>;

    /// Runs [`Self::start_all_reduce`] and waits for it.
    ///
    /// # Errors
    /// A peer failed, or did not arrive before the deadline.
    fn all_reduce(&self, tensor: &Tensor, reduce: Reduce) -> Result<(), CommError> {
        self.start_all_reduce(tensor, reduce)?.wait()
    }

    /// Returns the tensors of all ranks, in rank order.
    ///
    /// # Errors
    /// A peer failed, or did not arrive before the deadline.
    fn all_gather(&self, tensor: &Tensor) -> Result<Vec<Tensor>, CommError> {
        let tensor = tensor.detach().contiguous();
        let mut shape = vec![self.size() as i64];
        shape.extend(tensor.size());
        let into = Tensor::zeros(&shape, (tensor.kind(), tensor.device()));
        self.start_all_gather(&into, &tensor)?.wait()?;
        Ok(into.unbind(0))
    }

    /// Sums `tensor` `[size, ..]` over all ranks and returns this rank's shard `[..]`.
    ///
    /// # Errors
    /// A peer failed, or did not arrive before the deadline.
    fn reduce_scatter(&self, tensor: &Tensor) -> Result<Tensor, CommError> {
        let tensor = tensor.detach().contiguous();
        let into = tensor.select(0, 0).zeros_like();
        self.start_reduce_scatter(&into, &tensor)?.wait()?;
        Ok(into)
    }

    /// Runs [`Self::start_broadcast`] and waits for it.
    ///
    /// # Errors
    /// A peer failed, or did not arrive before the deadline.
    fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<(), CommError> {
        self.start_broadcast(tensor, root)?.wait()
    }
}

/// Work handle of an asynchronous collective or transfer. Dropping it does not wait: a collective still completes, a
/// transfer may be cancelled.
#[must_use = "complete only after `wait`"]
pub struct Work(Option<Box<dyn FnOnce() -> Result<(), CommError> + Send>>);

impl Work {
    /// Creates a handle that runs `wait` to complete.
    pub fn new(wait: impl FnOnce() -> Result<(), CommError> + Send + 'static) -> Self {
        Self(Some(Box::new(wait)))
    }

    /// Returns a completed handle.
    pub fn done() -> Self {
        Self(None)
    }

    /// Blocks until the operation is complete.
    ///
    /// # Errors
    /// A peer failed, or did not arrive before the deadline.
    pub fn wait(self) -> Result<(), CommError> {
        self.0.map_or(Ok(()), |wait| wait())
    }
}

impl Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Work" } else { "Work(done)" })
    }
}

/// Factory of process groups. Every rank creates the same groups in the same order.
pub trait ProcessGroupFactory {
    /// Returns this rank's number in the world.
    fn rank(&self) -> usize;

    /// Returns the number of ranks in the world.
    fn world(&self) -> usize;

    /// Creates the group of the world ranks `members` (ascending, this rank among them). `name` is unique.
    ///
    /// # Errors
    /// The group could not be created.
    fn group(&self, name: &str, members: &[usize]) -> Result<Arc<dyn ProcessGroup>, CommError>;

    /// Creates a group whose ranks also send to both neighbours; the first and the last rank are neighbours.
    ///
    /// # Errors
    /// The group could not be created.
    fn ring(&self, name: &str, members: &[usize]) -> Result<Arc<dyn ProcessGroup>, CommError> {
        self.group(name, members)
    }
}

/// A group of one rank: every operation is the identity.
#[derive(Debug, Clone, Copy)]
pub struct Solo;

impl ProcessGroup for Solo {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn start_all_reduce(&self, _: &Tensor, _: Reduce) -> Result<Work, CommError> {
        Ok(Work::done())
    }

    fn start_all_gather(&self, into: &Tensor, tensor: &Tensor) -> Result<Work, CommError> {
        write(&into.select(0, 0), tensor);
        Ok(Work::done())
    }

    fn start_reduce_scatter(&self, into: &Tensor, tensor: &Tensor) -> Result<Work, CommError> {
        write(into, &tensor.select(0, 0));
        Ok(Work::done())
    }

    fn start_broadcast(&self, _: &Tensor, _: usize) -> Result<Work, CommError> {
        Ok(Work::done())
    }

    fn send(&self, _: &Tensor, to: usize, _: u32) -> Result<Work, CommError> {
        Err(no_such_rank("send", to))
    }

    fn recv(&self, _: &Tensor, from: usize, _: u32) -> Result<Work, CommError> {
        Err(no_such_rank("recv", from))
    }
}

fn no_such_rank(operation: &'static str, peer: usize) -> CommError {
    CommError::Transport {
        group: "solo".into(),
        operation,
        reason: format!("there is no rank {peer}"),
    }
}

/// Copies values without recording autograd history.
pub(super) fn write(into: &Tensor, from: &Tensor) {
    tch::no_grad(|| into.shallow_clone().copy_(from));
}

impl ProcessGroupFactory for Solo {
    fn rank(&self) -> usize {
        0
    }

    fn world(&self) -> usize {
        1
    }

    fn group(&self, _: &str, _: &[usize]) -> Result<Arc<dyn ProcessGroup>, CommError> {
        Ok(Arc::new(Self))
    }
}

/// Runs `body` on a thread and returns its value if it ends within `limit`. Store calls have no deadline of their own
/// if the machine of the store is gone.
pub(super) fn within_limit<T: Send + 'static>(limit: Duration, body: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, outcome) = channel();
    // The receiver is gone if the outcome comes too late.
    let thread = std::thread::Builder::new()
        .name("store".into())
        .spawn(move || drop(done.send(body())));
    thread.ok().and_then(|_| outcome.recv_timeout(limit).ok())
}

/// Formats kind and shape of a tensor, for messages.
pub(super) fn describe(tensor: &Tensor) -> String {
    format!("{:?} {:?}", tensor.kind(), tensor.size())
}
