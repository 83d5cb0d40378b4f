//! What a group asks of NCCL and of the GPU.

use crate::comm::Reduce;
use std::fmt::Debug;
use tch::{Device, Tensor};

/// The library and the GPU behind a group. [`Nccl`](super::Nccl) is the real one; tests put their own in its place.
///
/// No call waits for the GPU or for another rank. An error is the library's own text.
pub trait Backend: Send + Sync + Debug + 'static {
    /// A communicator, until [`Self::destroy`] or [`Self::abort`] takes it.
    type Communicator: Send + Debug;
    /// A queue of the GPU.
    type Stream: Copy + Send + Sync + Debug;
    /// A point in a stream.
    type Event: Send + Sync;

    /// What it runs on.
    fn device(&self) -> Device;

    /// Whether a tensor lies where it reaches.
    fn carries(&self, tensor: &Tensor) -> bool;

    /// A name for a communicator to be, of which there is no second.
    ///
    /// # Errors
    /// The library failed.
    fn unique_id(&self) -> Result<Vec<u8>, String>;

    /// Begins to form the communicator `id` of `size` ranks as its rank `rank`.
    ///
    /// # Errors
    /// The library failed.
    fn join(&self, id: &[u8], rank: usize, size: usize) -> Result<Self::Communicator, String>;

    /// Whether what was begun last is in the GPU's hands.
    ///
    /// # Errors
    /// The communicator is broken.
    fn is_ready(&self, communicator: &Self::Communicator) -> Result<bool, String>;

    /// Begins a call on `stream`. Its tensors are contiguous and of the right sizes.
    ///
    /// # Errors
    /// The library refused.
    fn issue(&self, communicator: &Self::Communicator, call: &Call<'_>, stream: Self::Stream) -> Result<(), String>;

    /// Begins to send what peers have not got yet.
    ///
    /// # Errors
    /// The library failed.
    fn finalize(&self, communicator: &Self::Communicator) -> Result<(), String>;

    /// Frees a communicator that is ready after [`Self::finalize`].
    fn destroy(&self, communicator: Self::Communicator);

    /// Frees a communicator, whatever it is doing: what waits for a peer on the GPU ends.
    fn abort(&self, communicator: Self::Communicator);

    /// A stream of its own.
    ///
    /// # Errors
    /// The GPU failed.
    fn new_stream(&self) -> Result<Self::Stream, String>;

    /// The stream that libtorch computes on, for this thread.
    ///
    /// # Errors
    /// The GPU failed.
    fn current_stream(&self) -> Result<Self::Stream, String>;

    /// The point behind what is in a stream now.
    ///
    /// # Errors
    /// The GPU failed.
    fn mark(&self, stream: Self::Stream) -> Result<Self::Event, String>;

    /// What enters `stream` from now on begins after `event`.
    ///
    /// # Errors
    /// The GPU failed.
    fn order(&self, stream: Self::Stream, event: &Self::Event) -> Result<(), String>;

    /// Whether the GPU has come as far as `event`.
    ///
    /// # Errors
    /// The GPU failed.
    fn is_over(&self, event: &Self::Event) -> Result<bool, String>;

    /// Keeps the memory of a tensor that is dropped now for what is in `stream`.
    fn keep(&self, stream: Self::Stream, tensor: &Tensor);
}

/// A call of a communicator. Peers are ranks of the communicator.
#[derive(Debug)]
pub enum Call<'a> {
    /// In place.
    AllReduce {
        /// Read and written.
        tensor: &'a Tensor,
        /// How.
        reduce: Reduce,
    },
    /// `into` is as many times as large as there are ranks.
    AllGather {
        /// Written.
        into: &'a Tensor,
        /// Read.
        tensor: &'a Tensor,
    },
    /// A sum; `tensor` is as many times as large as there are ranks.
    ReduceScatter {
        /// Written.
        into: &'a Tensor,
        /// Read.
        tensor: &'a Tensor,
    },
    /// In place.
    Broadcast {
        /// Read by the root, written by the others.
        tensor: &'a Tensor,
        /// Whose it is.
        root: usize,
    },
    /// To a rank that receives.
    Send {
        /// Read.
        tensor: &'a Tensor,
        /// The receiver.
        to: usize,
    },
    /// From a rank that sends.
    Recv {
        /// Written.
        into: &'a Tensor,
        /// The sender.
        from: usize,
    },
}

impl Call<'_> {
    /// Its name, for messages.
    pub fn operation(&self) -> &'static str {
        match self {
            Self::AllReduce { reduce: Reduce::Sum, .. } => "all_reduce(sum)",
            Self::AllReduce { reduce: Reduce::Max, .. } => "all_reduce(max)",
            Self::AllGather { .. } => "all_gather",
            Self::ReduceScatter { .. } => "reduce_scatter(sum)",
            Self::Broadcast { .. } => "broadcast",
            Self::Send { .. } => "send",
            Self::Recv { .. } => "recv",
        }
    }

    /// The tensor that it is about.
    pub(super) fn subject(&self) -> &Tensor {
        match self {
            Self::AllReduce { tensor, .. }
            | Self::AllGather { tensor, .. }
            | Self::ReduceScatter { tensor, .. }
            | Self::Broadcast { tensor, .. }
            | Self::Send { tensor, .. } => tensor,
            Self::Recv { into, .. } => into,
        }
    }

    /// What must live until it is over.
    pub(super) fn tensors(&self) -> Vec<Tensor> {
        let into = match self {
            Self::AllGather { into, .. } | Self::ReduceScatter { into, .. } => Some(into.detach()),
            _ => None,
        };
        into.into_iter().chain([self.subject().detach()]).collect()
    }

    /// Refuses tensors whose memory the library would misread, in a group of `size` ranks.
    pub(super) fn check(&self, size: usize) -> Result<(), String> {
        let (whole, part) = match self {
            Self::AllGather { into, tensor } => (into, tensor),
            Self::ReduceScatter { into, tensor } => (tensor, into),
            _ => return contiguous(self.subject()),
        };
        contiguous(whole)?;
        contiguous(part)?;
        if whole.kind() != part.kind() || whole.numel() != part.numel() * size {
            return Err(format!(
                "{:?} {:?} is not {size} times {:?} {:?}",
                whole.kind(),
                whole.size(),
                part.kind(),
                part.size()
            ));
        }
        Ok(())
    }
}

fn contiguous(tensor: &Tensor) -> Result<(), String> {
    if tensor.is_sparse() || !tensor.is_contiguous() {
        return Err(format!("the tensor of shape {:?} is not contiguous", tensor.size()));
    }
    Ok(())
}
