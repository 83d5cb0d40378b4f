//! Errors of communication between ranks.

use std::time::Duration;

/// An error of communication between ranks.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommError {
    /// A rank did not arrive in time.
    #[error("{operation}{} in group `{group}`: rank {rank} waited {:.0} s, {arrived}", of(what), waited.as_secs_f64())]
    Deadline {
        /// Name of the group.
        group: String,
        /// Operation.
        operation: &'static str,
        /// Kind and shape of the tensor; empty if there is none.
        what: String,
        /// This rank's number in the group.
        rank: usize,
        /// Time waited.
        waited: Duration,
        /// Description of the ranks that had arrived.
        arrived: String,
    },
    /// A peer gave up.
    #[error("{operation} in group `{group}`: {reason}")]
    Peer {
        /// Name of the group.
        group: String,
        /// Operation.
        operation: &'static str,
        /// Error of the peer.
        reason: String,
    },
    /// Ranks called different operations, or with different tensors.
    #[error("ranks of group `{group}` disagree: {}", details.join(", "))]
    Mismatch {
        /// Name of the group.
        group: String,
        /// Call of each rank.
        details: Vec<String>,
    },
    /// The transport failed.
    #[error("{operation} in group `{group}`: {reason}")]
    Transport {
        /// Name of the group.
        group: String,
        /// Operation.
        operation: &'static str,
        /// Error text of the transport.
        reason: String,
    },
    /// The rendezvous failed.
    #[error("rendezvous at {address}: {reason}")]
    Rendezvous {
        /// Host and port.
        address: String,
        /// Cause.
        reason: String,
    },
    /// A communication library is missing.
    #[error("{0}")]
    Unavailable(String),
    /// The ranks connected, but their handshakes differ.
    #[error("ranks do not belong to one run: {0}")]
    HandshakeMismatch(String),
    /// A bug of this program.
    #[error("bug: {0}")]
    Bug(String),
    /// A signal arrived during the rendezvous.
    #[error("asked to stop during the rendezvous")]
    Stopped,
}

/// Marks peer failures in error text.
pub(crate) const IN_GROUP: &str = " in group `";

impl CommError {
    /// Returns whether a peer ended, failed, or did not answer.
    pub(crate) fn is_peer_failure(&self) -> bool {
        match self {
            Self::Deadline { .. } | Self::Peer { .. } | Self::Transport { .. } | Self::Stopped => true,
            // A port that another program uses is rank 0's own failure.
            Self::Rendezvous { reason, .. } => {
                !reason.to_ascii_lowercase().contains("address already in use") && !reason.contains("EADDRINUSE")
            }
            Self::Mismatch { .. } | Self::Unavailable(_) | Self::HandshakeMismatch(_) | Self::Bug(_) => false,
        }
    }
}

fn of(what: &str) -> String {
    if what.is_empty() { String::new() } else { format!(" of {what}") }
}
