//! What a group of ranks can do together.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;
use tch::Tensor;

/// How [`Collective::all_reduce`] combines values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduce {
    /// Sum over the ranks.
    Sum,
    /// Maximum over the ranks.
    Max,
}

/// One group of ranks. Every rank of the group starts the same collectives in the same order with tensors
/// of the same shape and kind; whether one is started depends on configuration, never on data. Transfers between two
/// ranks are matched by their tag, in whatever order they are started.
///
/// What is started goes on while the caller computes: its tensors may be read or changed again after [`Pending::wait`].
pub trait Collective: Send + Sync + Debug {
    /// This rank's number within the group.
    fn rank(&self) -> usize;

    /// Number of ranks in the group.
    fn size(&self) -> usize;

    /// Replaces `tensor` (contiguous) by the reduction over all ranks.
    ///
    /// # Errors
    /// The transport refused.
    fn start_all_reduce(&self, tensor: &Tensor, reduce: Reduce) -> Result<Pending, CommError>;

    /// Fills `into` `[size, ..]` (contiguous) with the `tensor` `[..]` (contiguous) of each rank, by rank.
    ///
    /// # Errors
    /// The transport refused.
    fn start_all_gather(&self, into: &Tensor, tensor: &Tensor) -> Result<Pending, CommError>;

    /// Fills `into` `[..]` with this rank's part of the sum of `tensor` `[size, ..]` over all ranks; both contiguous.
    ///
    /// # Errors
    /// The transport refused.
    fn start_reduce_scatter(&self, into: &Tensor, tensor: &Tensor) -> Result<Pending, CommError>;

    /// Replaces `tensor` (contiguous) by that of rank `root`.
    ///
    /// # Errors
    /// The transport refused.
    fn start_broadcast(&self, tensor: &Tensor, root: usize) -> Result<Pending, CommError>;

    /// Sends `tensor` (contiguous) to the rank `to`, which receives it by the same `tag`.
    ///
    /// # Errors
    /// The transport refused.
    fn send(&self, tensor: &Tensor, to: usize, tag: u32) -> Result<Pending, CommError>;

    /// Fills `into` (contiguous) with what the rank `from` sends by the same `tag`.
    ///
    /// # Errors
    /// The transport refused.
    fn recv(&self, into: &Tensor, from: usize, tag: u32) -> Result<Pending, CommError>;

    /// [`Self::start_all_reduce`], waited for.
    ///
    /// # Errors
    /// A peer failed, or did not arrive before the deadline.
    fn all_reduce(&self, tensor: &Tensor, reduce: Reduce) -> Result<(), CommError> {
        self.start_all_reduce(tensor, reduce)?.wait()
    }

    /// The tensors of all ranks, by rank.
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

    /// Of `tensor` `[size, ..]`, summed over all ranks, the part `[..]` of this rank.
    ///
    /// # Errors
    /// A peer failed, or did not arrive before the deadline.
    fn reduce_scatter(&self, tensor: &Tensor) -> Result<Tensor, CommError> {
        let tensor = tensor.detach().contiguous();
        let into = tensor.select(0, 0).zeros_like();
        self.start_reduce_scatter(&into, &tensor)?.wait()?;
        Ok(into)
    }

    /// [`Self::start_broadcast`], waited for.
    ///
    /// # Errors
    /// A peer failed, or did not arrive before the deadline.
    fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<(), CommError> {
        self.start_broadcast(tensor, root)?.wait()
    }
}

/// A collective or a transfer on its way. Dropping it does not wait: a collective still takes part to its end, a
/// transfer may be withdrawn.
#[must_use = "complete only after `wait`"]
pub struct Pending(Option<Box<dyn FnOnce() -> Result<(), CommError> + Send>>);

impl Pending {
    /// What `wait` completes.
    pub fn new(wait: impl FnOnce() -> Result<(), CommError> + Send + 'static) -> Self {
        Self(Some(Box::new(wait)))
    }

    /// Nothing is left to wait for.
    pub fn done() -> Self {
        Self(None)
    }

    /// Blocks until it is complete.
    ///
    /// # Errors
    /// A peer failed, or did not arrive before the deadline.
    pub fn wait(self) -> Result<(), CommError> {
        self.0.map_or(Ok(()), |wait| wait())
    }
}

impl Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Pending" } else { "Pending(done)" })
    }
}

/// Makes the groups of a mesh. Every rank asks for the same groups in the same order.
pub trait Fabric {
    /// This rank's number in the world.
    fn rank(&self) -> usize;

    /// Number of ranks in the world.
    fn world(&self) -> usize;

    /// The group of the world ranks `members` (ascending, this rank among them) under a name of its own.
    ///
    /// # Errors
    /// The group could not be formed.
    fn group(&self, name: &str, members: &[usize]) -> Result<Arc<dyn Collective>, CommError>;

    /// A group whose ranks also send to the next rank and to the one before, the first and the last being neighbours.
    ///
    /// # Errors
    /// The group could not be formed.
    fn ring(&self, name: &str, members: &[usize]) -> Result<Arc<dyn Collective>, CommError> {
        self.group(name, members)
    }
}

/// A group of one rank: every operation is the identity.
#[derive(Debug, Clone, Copy)]
pub struct Solo;

impl Collective for Solo {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn start_all_reduce(&self, _: &Tensor, _: Reduce) -> Result<Pending, CommError> {
        Ok(Pending::done())
    }

    fn start_all_gather(&self, into: &Tensor, tensor: &Tensor) -> Result<Pending, CommError> {
        write(&into.select(0, 0), tensor);
        Ok(Pending::done())
    }

    fn start_reduce_scatter(&self, into: &Tensor, tensor: &Tensor) -> Result<Pending, CommError> {
        write(into, &tensor.select(0, 0));
        Ok(Pending::done())
    }

    fn start_broadcast(&self, _: &Tensor, _: usize) -> Result<Pending, CommError> {
        Ok(Pending::done())
    }

    fn send(&self, _: &Tensor, to: usize, _: u32) -> Result<Pending, CommError> {
        Err(nobody("send", to))
    }

    fn recv(&self, _: &Tensor, from: usize, _: u32) -> Result<Pending, CommError> {
        Err(nobody("recv", from))
    }
}

fn nobody(operation: &'static str, peer: usize) -> CommError {
    CommError::Transport {
        group: "solo".into(),
        operation,
        reason: format!("there is no rank {peer}"),
    }
}

/// Copies values, past any autograd history.
pub(super) fn write(into: &Tensor, from: &Tensor) {
    tch::no_grad(|| into.shallow_clone().copy_(from));
}

impl Fabric for Solo {
    fn rank(&self) -> usize {
        0
    }

    fn world(&self) -> usize {
        1
    }

    fn group(&self, _: &str, _: &[usize]) -> Result<Arc<dyn Collective>, CommError> {
        Ok(Arc::new(Self))
    }
}

/// Why ranks could not talk.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommError {
    /// Somebody did not arrive in time.
    #[error("{operation}{} in group `{group}`: rank {rank} waited {:.0} s, {arrived}", of(what), waited.as_secs_f64())]
    Deadline {
        /// Name of the group.
        group: String,
        /// Operation.
        operation: &'static str,
        /// Kind and shape of the tensor; empty where there is none.
        what: String,
        /// This rank's number in the group.
        rank: usize,
        /// Time waited.
        waited: Duration,
        /// Who had arrived, in words.
        arrived: String,
    },
    /// A peer gave up.
    #[error("{operation} in group `{group}`: {reason}")]
    Peer {
        /// Name of the group.
        group: String,
        /// Operation.
        operation: &'static str,
        /// What the peer said.
        reason: String,
    },
    /// Ranks called different operations, or with different tensors.
    #[error("ranks of group `{group}` disagree: {}", details.join(", "))]
    Mismatch {
        /// Name of the group.
        group: String,
        /// What each rank called.
        details: Vec<String>,
    },
    /// The transport failed.
    #[error("{operation} in group `{group}`: {reason}")]
    Transport {
        /// Name of the group.
        group: String,
        /// Operation.
        operation: &'static str,
        /// The transport's own words.
        reason: String,
    },
    /// The ranks could not meet.
    #[error("rendezvous at {address}: {reason}")]
    Rendezvous {
        /// Host and port.
        address: String,
        /// What went wrong.
        reason: String,
    },
    /// A library that ranks talk through is not there.
    #[error("{0}")]
    Unavailable(String),
    /// The ranks met, but do not belong together.
    #[error("ranks do not belong to one run: {0}")]
    Strangers(String),
    /// A mistake of ours.
    #[error("bug: {0}")]
    Bug(String),
    /// A signal came before the ranks had met.
    #[error("asked to stop while the ranks met")]
    Stopped,
}

/// What the messages of calls that a peer did not take part in say of their group.
pub(crate) const IN_GROUP: &str = " in group `";

impl CommError {
    /// Whether a peer went away, failed, or did not answer.
    pub(crate) fn is_of_a_peer(&self) -> bool {
        match self {
            Self::Deadline { .. } | Self::Peer { .. } | Self::Transport { .. } | Self::Stopped => true,
            // A port that somebody else has is rank 0's own affair.
            Self::Rendezvous { reason, .. } => {
                !reason.to_ascii_lowercase().contains("address already in use") && !reason.contains("EADDRINUSE")
            }
            Self::Mismatch { .. } | Self::Unavailable(_) | Self::Strangers(_) | Self::Bug(_) => false,
        }
    }
}

fn of(what: &str) -> String {
    if what.is_empty() { String::new() } else { format!(" of {what}") }
}

/// Kind and shape of a tensor, for messages.
pub(super) fn describe(tensor: &Tensor) -> String {
    format!("{:?} {:?}", tensor.kind(), tensor.size())
}
