//! Streams and events of a GPU: what orders libtorch's kernels and those of other libraries without a wait of the
//! host. All of it needs [`load_cuda`](crate::load_cuda) to have found CUDA; without, every call is an error that says
//! so.

use std::ffi::c_void;
use std::ptr::{NonNull, null_mut};

use tch::Tensor;

use crate::error::{Error, Result};
use crate::sys::{self, CEvent, CStream};
use crate::tensors::pointer;

/// A queue of kernels on one GPU. Its owner is libtorch: a copy costs nothing, and it is never freed.
#[derive(Debug, Clone, Copy)]
pub struct Stream(CStream);

impl Stream {
    /// The stream that libtorch's kernels of this thread go to on GPU `index`.
    ///
    /// # Errors
    /// There is no CUDA, or no such GPU.
    pub fn current(index: usize) -> Result<Self> {
        let index = number(index)?;
        Self::given("find the current stream", |out| {
            // SAFETY: `out` is a place for one stream.
            unsafe { sys::neva_stream_current(index, out) }
        })
    }

    /// A stream of GPU `index` beside the current one, of high priority: one of 32 that libtorch deals in turn.
    ///
    /// # Errors
    /// There is no CUDA, or no such GPU.
    pub fn pooled(index: usize) -> Result<Self> {
        let index = number(index)?;
        Self::given("take a stream", |out| {
            // SAFETY: `out` is a place for one stream.
            unsafe { sys::neva_stream_pooled(index, out) }
        })
    }

    /// The `cudaStream_t`, for another library. It is good for as long as the process.
    ///
    /// # Errors
    /// There is no CUDA.
    pub fn handle(self) -> Result<*mut c_void> {
        let mut handle = null_mut();
        // SAFETY: `handle` is a place for one pointer.
        unsafe { sys::neva_stream_handle(self.0, &raw mut handle) }.check("find a stream's handle")?;
        Ok(handle)
    }

    /// Lets nothing that is queued here from now on begin before `event`.
    ///
    /// # Errors
    /// An earlier kernel failed.
    pub fn wait_for(self, event: &Event) -> Result<()> {
        // SAFETY: the event lives during the call.
        unsafe { sys::neva_event_block(event.0.as_ptr(), self.0) }.check("order streams")
    }

    /// Keeps the memory of `tensor`, a tensor on this GPU, from being used again before all that is queued here now is
    /// over, however early the tensor is dropped.
    ///
    /// # Errors
    /// The tensor is elsewhere.
    pub fn keep(self, tensor: &Tensor) -> Result<()> {
        const OP: &str = "keep a tensor";
        if !tensor.defined() || !tensor.device().is_cuda() {
            return Err(Error::Argument(format!("{OP}: it is not on a GPU")));
        }
        // SAFETY: the tensor lives during the call, and has memory on a GPU (checked).
        unsafe { sys::neva_stream_keep(self.0, pointer(tensor)) }.check(OP)
    }

    fn given(op: &'static str, give: impl FnOnce(*mut CStream) -> sys::Status) -> Result<Self> {
        let mut stream = CStream::default();
        give(&raw mut stream).check(op)?;
        Ok(Self(stream))
    }
}

/// A point in a stream.
#[derive(Debug)]
pub struct Event(NonNull<CEvent>);

// SAFETY: a CUDA event may be used and freed on any thread.
unsafe impl Send for Event {}
// SAFETY: after it was recorded an event is only read, which CUDA lets threads do at once.
unsafe impl Sync for Event {}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the pointer came from C++ and is freed only here. Nothing can be done about a failing destructor.
        let _status = unsafe { sys::neva_event_free(self.0.as_ptr()) };
    }
}

impl Event {
    /// The point behind all that is queued in `stream` now.
    ///
    /// # Errors
    /// There is no CUDA, or an earlier kernel failed.
    pub fn record(stream: Stream) -> Result<Self> {
        const OP: &str = "record an event";
        let mut raw = null_mut();
        // SAFETY: `raw` is a place for one pointer.
        unsafe { sys::neva_event_record(stream.0, &raw mut raw) }.check(OP)?;
        let raw = NonNull::new(raw).ok_or(Error::Torch {
            op: OP,
            message: "no event came back".into(),
        })?;
        Ok(Self(raw))
    }

    /// Whether the GPU has come so far.
    ///
    /// # Errors
    /// An earlier kernel failed.
    pub fn is_over(&self) -> Result<bool> {
        let mut over = false;
        // SAFETY: the event is alive until `drop`; `over` is a place for a bool.
        unsafe { sys::neva_event_query(self.0.as_ptr(), &raw mut over) }.check("look at an event")?;
        Ok(over)
    }
}

/// Makes GPU `index` the one that this thread works on where no tensor says another.
///
/// # Errors
/// There is no CUDA, or no such GPU.
pub fn set_gpu(index: usize) -> Result<()> {
    let index = number(index)?;
    // SAFETY: no pointer is passed.
    unsafe { sys::neva_set_gpu(index) }.check("choose the GPU")
}

fn number(index: usize) -> Result<i32> {
    i8::try_from(index)
        .map(i32::from)
        .map_err(|_| Error::Argument(format!("GPU {index}: libtorch counts up to {}", i8::MAX)))
}
