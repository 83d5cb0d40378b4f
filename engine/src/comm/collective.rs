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

/// One group of ranks. Every rank of the group calls the same operations in the same order with tensors
/// of the same shape and kind; whether an operation runs depends on configuration, never on data.
pub trait Collective: Send + Sync + Debug {
    /// This rank's number within the group.
    fn rank(&self) -> usize;

    /// Number of ranks in the group.
    fn size(&self) -> usize;

    /// Replaces `tensor` (contiguous) by the reduction over all ranks.
    ///
    /// # Errors
    /// A peer failed, or did not arrive before the deadline.
    fn all_reduce(&self, tensor: &Tensor, reduce: Reduce) -> Result<(), CommError>;

    /// The tensors of all ranks, by rank.
    ///
    /// # Errors
    /// A peer failed, or did not arrive before the deadline.
    fn all_gather(&self, tensor: &Tensor) -> Result<Vec<Tensor>, CommError>;

    /// Of `tensor` `[size, ..]`, summed over all ranks, the part `[..]` of this rank.
    ///
    /// # Errors
    /// A peer failed, or did not arrive before the deadline.
    fn reduce_scatter(&self, tensor: &Tensor) -> Result<Tensor, CommError>;

    /// Replaces `tensor` (contiguous) by that of rank `root`.
    ///
    /// # Errors
    /// A peer failed, or did not arrive before the deadline.
    fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<(), CommError>;
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

    fn all_reduce(&self, _: &Tensor, _: Reduce) -> Result<(), CommError> {
        Ok(())
    }

    fn all_gather(&self, tensor: &Tensor) -> Result<Vec<Tensor>, CommError> {
        Ok(vec![tensor.shallow_clone()])
    }

    fn reduce_scatter(&self, tensor: &Tensor) -> Result<Tensor, CommError> {
        Ok(tensor.select(0, 0))
    }

    fn broadcast(&self, _: &Tensor, _: usize) -> Result<(), CommError> {
        Ok(())
    }
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
    #[error("{operation} of {what} in group `{group}`: rank {rank} waited {:.0} s, {arrived}", waited.as_secs_f64())]
    Deadline {
        /// Name of the group.
        group: String,
        /// Operation.
        operation: &'static str,
        /// Kind and shape of the tensor.
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
    /// The ranks met, but do not belong together.
    #[error("ranks do not belong to one run: {0}")]
    Strangers(String),
}

/// Kind and shape of a tensor, for messages.
pub(super) fn describe(tensor: &Tensor) -> String {
    format!("{:?} {:?}", tensor.kind(), tensor.size())
}
