//! Interface of an NCCL process group to the library and the GPU.

use crate::comm::Reduce;
use std::fmt::Debug;
use tch::{Device, Tensor};

/// Library and GPU of a process group. [`Nccl`](super::Nccl) is the real one; tests have a simulated one.
///
/// No call waits for the GPU or for another rank. Errors are the library's text.
pub trait Backend: Send + Sync + Debug + 'static {
    /// A communicator, valid until [`Self::destroy`] or [`Self::abort`].
    type Communicator: Send + Debug;
    /// A CUDA stream.
    type Stream: Copy + Send + Sync + Debug;
    /// A CUDA event.
    type Event: Send + Sync;

    /// Returns the device of this rank.
    fn device(&self) -> Device;

    /// Returns whether the tensor is on a device of this backend.
    fn is_on_device(&self, tensor: &Tensor) -> bool;

    /// Returns a unique id for a new communicator.
    ///
    /// # Errors
    /// The library failed.
    fn unique_id(&self) -> Result<Vec<u8>, String>;

    /// Starts to create the communicator `id` of `size` ranks, as its rank `rank`.
    ///
    /// # Errors
    /// The library failed.
    fn init_rank(&self, id: &[u8], rank: usize, size: usize) -> Result<Self::Communicator, String>;

    /// Returns whether the last call is enqueued on the GPU.
    ///
    /// # Errors
    /// The communicator is broken.
    fn is_ready(&self, communicator: &Self::Communicator) -> Result<bool, String>;

    /// Starts a call on `stream`. Its tensors are contiguous and of the right sizes.
    ///
    /// # Errors
    /// The library refused.
    fn enqueue(&self, communicator: &Self::Communicator, call: &Call<'_>, stream: Self::Stream) -> Result<(), String>;

    /// Starts to flush all calls to the peers.
    ///
    /// # Errors
    /// The library failed.
    fn finalize(&self, communicator: &Self::Communicator) -> Result<(), String>;

    /// Frees a communicator that is ready after [`Self::finalize`].
    fn destroy(&self, communicator: Self::Communicator);

    /// Frees a communicator in any state: kernels that wait for a peer end.
    fn abort(&self, communicator: Self::Communicator);

    /// Returns a new stream.
    ///
    /// # Errors
    /// The GPU failed.
    fn new_stream(&self) -> Result<Self::Stream, String>;

    /// Returns libtorch's current stream of this thread.
    ///
    /// # Errors
    /// The GPU failed.
    fn current_stream(&self) -> Result<Self::Stream, String>;

    /// Records an event after the work that is in a stream now.
    ///
    /// # Errors
    /// The GPU failed.
    fn record_event(&self, stream: Self::Stream) -> Result<Self::Event, String>;

    /// Makes later work of `stream` wait for `event`.
    ///
    /// # Errors
    /// The GPU failed.
    fn wait_event(&self, stream: Self::Stream, event: &Self::Event) -> Result<(), String>;

    /// Returns whether the GPU has completed `event`.
    ///
    /// # Errors
    /// The GPU failed.
    fn is_complete(&self, event: &Self::Event) -> Result<bool, String>;

    /// Keeps the memory of a tensor until the present work of `stream` is done, as `torch.Tensor.record_stream`.
    fn record_stream(&self, stream: Self::Stream, tensor: &Tensor);
}

/// A collective or transfer. Peers are ranks of the communicator.
#[derive(Debug)]
pub enum Call<'a> {
    /// In place.
    AllReduce {
        /// Read and written.
        tensor: &'a Tensor,
        /// Reduction.
        reduce: Reduce,
    },
    /// `into` has the size of `tensor` times the number of ranks.
    AllGather {
        /// Written.
        into: &'a Tensor,
        /// Read.
        tensor: &'a Tensor,
    },
    /// A sum; `tensor` has the size of `into` times the number of ranks.
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
        /// The sender.
        root: usize,
    },
    /// Sends to one rank.
    Send {
        /// Read.
        tensor: &'a Tensor,
        /// The receiver.
        to: usize,
    },
    /// Receives from one rank.
    Recv {
        /// Written.
        into: &'a Tensor,
        /// The sender.
        from: usize,
    },
}

impl Call<'_> {
    /// Returns the name of the operation, for messages.
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

    /// Returns the tensor that messages describe.
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

    /// Returns the tensors that must live until the call is complete.
    pub(super) fn tensors(&self) -> Vec<Tensor> {
        let into = match self {
            Self::AllGather { into, .. } | Self::ReduceScatter { into, .. } => Some(into.detach()),
            _ => None,
        };
        into.into_iter().chain([self.subject().detach()]).collect()
    }

    /// Validates layout, kind and size of the tensors for a group of `size` ranks.
    pub(super) fn check(&self, size: usize) -> Result<(), String> {
        let (whole, shard) = match self {
            Self::AllGather { into, tensor } => (into, tensor),
            Self::ReduceScatter { into, tensor } => (tensor, into),
            _ => return contiguous(self.subject()),
        };
        contiguous(whole)?;
        contiguous(shard)?;
        if whole.kind() != shard.kind() || whole.numel() != shard.numel() * size {
            return Err(format!(
                "{:?} {:?} is not {size} times {:?} {:?}",
                whole.kind(),
                whole.size(),
                shard.kind(),
                shard.size()
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
