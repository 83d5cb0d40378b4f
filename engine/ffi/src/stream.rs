//! CUDA streams and events, which order kernels of libtorch and of other libraries without blocking the host. They need
//! a CUDA libtorch, loaded by [`load_cuda`](crate::load_cuda). Without it, every call returns an error that says so.

use std::ffi::c_void;
use std::ptr::{NonNull, null_mut};

use tch::Tensor;

use crate::error::{Error, Result};
use crate::sys::{self, CEvent, CStream};
use crate::tensors::pointer;

/// A CUDA stream: a queue of kernels on one GPU. libtorch owns it and never frees it, so it can be copied.
#[derive(Debug, Clone, Copy)]
pub struct Stream(CStream);

impl Stream {
    /// Returns libtorch's current stream of this thread on GPU `index`.
    ///
    /// # Errors
    /// Returns an error if there is no CUDA or no such GPU.
    pub fn current(index: usize) -> Result<Self> {
        let index = device_index(index)?;
        Self::created("get the current stream", |out| {
            // SAFETY: `out` has room for one stream.
            unsafe { sys::neva_stream_current(index, out) }
        })
    }

    /// Returns a high-priority stream of GPU `index` from libtorch's pool of 32 streams, in round-robin order.
    ///
    /// # Errors
    /// Returns an error if there is no CUDA or no such GPU.
    pub fn from_pool(index: usize) -> Result<Self> {
        let index = device_index(index)?;
        Self::created("take a stream from the pool", |out| {
            // SAFETY: `out` has room for one stream.
            unsafe { sys::neva_stream_from_pool(index, out) }
        })
    }

    /// Returns the `cudaStream_t`, for other libraries. It is valid until the process ends.
    ///
    /// # Errors
    /// Returns an error if there is no CUDA.
    pub fn handle(self) -> Result<*mut c_void> {
        let mut handle = null_mut();
        // SAFETY: `handle` has room for one pointer.
        unsafe { sys::neva_stream_handle(self.0, &raw mut handle) }.check("get the handle of a stream")?;
        Ok(handle)
    }

    /// Makes all later kernels of this stream wait for `event`, as `torch.cuda.Stream.wait_event`.
    ///
    /// # Errors
    /// Returns an error if an earlier kernel failed.
    pub fn wait_event(self, event: &Event) -> Result<()> {
        // SAFETY: the event lives during the call.
        unsafe { sys::neva_event_block(event.0.as_ptr(), self.0) }.check("wait for an event on a stream")
    }

    /// Records that this stream uses `tensor`, as `torch.Tensor.record_stream`: even if the tensor is dropped early, its
    /// memory is not reused before the kernels that are queued now have run.
    ///
    /// # Errors
    /// Returns an error if the tensor is not on a GPU.
    pub fn record_tensor(self, tensor: &Tensor) -> Result<()> {
        const OP: &str = "record a tensor on a stream";
        if !tensor.defined() || !tensor.device().is_cuda() {
            return Err(Error::Argument(format!("{OP}: the tensor is not on a GPU")));
        }
        // SAFETY: the tensor lives during the call, and has memory on a GPU (checked).
        unsafe { sys::neva_stream_record_tensor(self.0, pointer(tensor)) }.check(OP)
    }

    fn created(op: &'static str, make: impl FnOnce(*mut CStream) -> sys::Status) -> Result<Self> {
        let mut stream = CStream::default();
        make(&raw mut stream).check(op)?;
        Ok(Self(stream))
    }
}

/// A CUDA event: a point in a stream.
#[derive(Debug)]
pub struct Event(NonNull<CEvent>);

// SAFETY: a CUDA event may be used and freed on any thread.
unsafe impl Send for Event {}
// SAFETY: a recorded event is only read, which CUDA allows from several threads at once.
unsafe impl Sync for Event {}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the pointer came from C++ and is freed only here. The status is ignored: nothing can be done about it.
        let _status = unsafe { sys::neva_event_free(self.0.as_ptr()) };
    }
}

impl Event {
    /// Records an event after all kernels that are queued in `stream` now.
    ///
    /// # Errors
    /// Returns an error if there is no CUDA or an earlier kernel failed.
    pub fn record(stream: Stream) -> Result<Self> {
        const OP: &str = "record an event";
        let mut raw = null_mut();
        // SAFETY: `raw` has room for one pointer.
        unsafe { sys::neva_event_record(stream.0, &raw mut raw) }.check(OP)?;
        let raw = NonNull::new(raw).ok_or(Error::Torch {
            op: OP,
            message: "libtorch returned no event".into(),
        })?;
        Ok(Self(raw))
    }

    /// Returns whether the GPU has reached the event, as `torch.cuda.Event.query`.
    ///
    /// # Errors
    /// Returns an error if an earlier kernel failed.
    pub fn query(&self) -> Result<bool> {
        let mut done = false;
        // SAFETY: the event is alive until `drop`; `done` has room for a bool.
        unsafe { sys::neva_event_query(self.0.as_ptr(), &raw mut done) }.check("query an event")?;
        Ok(done)
    }
}

/// Sets the current CUDA device of this thread, as `torch.cuda.set_device`.
///
/// # Errors
/// Returns an error if there is no CUDA or no such GPU.
pub fn set_cuda_device(index: usize) -> Result<()> {
    let index = device_index(index)?;
    // SAFETY: no pointer is passed.
    unsafe { sys::neva_set_cuda_device(index) }.check("set the CUDA device")
}

fn device_index(index: usize) -> Result<i32> {
    i8::try_from(index)
        .map(i32::from)
        .map_err(|_| Error::Argument(format!("GPU {index}: libtorch supports indices up to {}", i8::MAX)))
}
