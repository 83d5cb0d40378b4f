//! Process groups over NVIDIA's NCCL, one GPU per rank. **Built and tested with a simulated library and GPU; not verified
//! on a GPU.**
//!
//! - **The library** is opened when a run needs it, never to build or to run on CPUs. `cudarc` declares NCCL's functions.
//!   Its loader knows only the name `libnccl.so`, which NVIDIA's wheel does not have, so functions are looked up here. A
//!   function whose type differs from cudarc's does not compile.
//! - **Communicators** are non-blocking: NCCL returns at once, and the host waits with a deadline until the call is
//!   enqueued. Each has its own stream. Events order it after libtorch's stream when a call starts, and libtorch's stream
//!   after it at [`Work::wait`](super::Work::wait); the host never waits for the GPU.
//! - **Watchdog**: a thread of each rank aborts all its communicators after a timeout, an NCCL error, or a failure of
//!   another rank (`nccl/watchdog.rs`).
//! - **Transfers** use one communicator for each direction of each pair of neighbours: on a single one, two ranks that
//!   send to each other would deadlock. They are matched by tags, which NCCL does not have (`nccl/link.rs`). Batched
//!   transfers as in libtorch are impossible: a pipeline rank starts receives two actions ahead and in its own order.
//! - **CPU tensors** (sums of losses, counts of labels, headers) go over Gloo.
#![expect(unsafe_code, reason = "calls of NCCL")]

mod backend;
mod communicator;
mod config;
mod group;
mod kinds;
mod link;
mod watchdog;

pub use backend::{Backend, Call};
pub use group::{NcclFactory, NcclWorld};

use super::process_group::Reduce;
use crate::comm_error::CommError;
use config::config;
use cudarc::nccl::sys::{self, cudaStream_t, ncclComm_t, ncclConfig_t, ncclDataType_t, ncclRedOp_t, ncclResult_t, ncclUniqueId};
use kinds::{elements, operator, reducible};
use libloading::Library;
use neva_torch_ffi::{Event, Stream, libtorch_folder, set_cuda_device};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr::null_mut;
use tch::{Device, Tensor};

/// File name of the library with its ABI version.
const LIBRARY_FILE: &str = "libnccl.so.2";
/// First version with the fields of `config.rs`.
const MIN_VERSION: c_int = 21_400;

/// Declares NCCL's functions. Does not compile if a type differs from cudarc's.
macro_rules! functions {
    ($($name:ident($($argument:ty),*) -> $result:ty;)*) => {
        #[expect(non_snake_case, reason = "NCCL's names")]
        struct Functions {
            $($name: unsafe extern "C" fn($($argument),*) -> $result,)*
            /// Keeps the library open while the functions are in use.
            _library: Library,
        }

        impl Functions {
            fn of(library: Library) -> Result<Self, String> {
                Ok(Self { $($name: {
                    // SAFETY: the type is the one that cudarc, made from NCCL's header, declares (checked below), and
                    // the library stays open as long as `Self`.
                    let function = unsafe { library.get(stringify!($name)) };
                    *function.map_err(|_| format!("it has no {}", stringify!($name)))?
                },)* _library: library })
            }
        }

        $(const _: unsafe fn($($argument),*) -> $result = sys::$name;)*
    };
}

functions! {
    ncclGetVersion(*mut c_int) -> ncclResult_t;
    ncclGetUniqueId(*mut ncclUniqueId) -> ncclResult_t;
    ncclCommInitRankConfig(*mut ncclComm_t, c_int, ncclUniqueId, c_int, *mut ncclConfig_t) -> ncclResult_t;
    ncclCommGetAsyncError(ncclComm_t, *mut ncclResult_t) -> ncclResult_t;
    ncclCommFinalize(ncclComm_t) -> ncclResult_t;
    ncclCommDestroy(ncclComm_t) -> ncclResult_t;
    ncclCommAbort(ncclComm_t) -> ncclResult_t;
    ncclGetErrorString(ncclResult_t) -> *const c_char;
    ncclGetLastError(ncclComm_t) -> *const c_char;
    ncclAllReduce(*const c_void, *mut c_void, usize, ncclDataType_t, ncclRedOp_t, ncclComm_t, cudaStream_t) -> ncclResult_t;
    ncclAllGather(*const c_void, *mut c_void, usize, ncclDataType_t, ncclComm_t, cudaStream_t) -> ncclResult_t;
    ncclReduceScatter(*const c_void, *mut c_void, usize, ncclDataType_t, ncclRedOp_t, ncclComm_t, cudaStream_t) -> ncclResult_t;
    ncclBroadcast(*const c_void, *mut c_void, usize, ncclDataType_t, c_int, ncclComm_t, cudaStream_t) -> ncclResult_t;
    ncclSend(*const c_void, usize, ncclDataType_t, c_int, ncclComm_t, cudaStream_t) -> ncclResult_t;
    ncclRecv(*mut c_void, usize, ncclDataType_t, c_int, ncclComm_t, cudaStream_t) -> ncclResult_t;
}

/// NCCL on one GPU.
pub struct Nccl {
    functions: Functions,
    gpu: usize,
    version: String,
}

impl std::fmt::Debug for Nccl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Nccl {} on GPU {}", self.version, self.gpu)
    }
}

/// A communicator of NCCL.
#[derive(Debug)]
pub struct Handle(ncclComm_t);

// SAFETY: NCCL lets any thread use a communicator, one at a time; `Communicator` keeps it behind a lock.
unsafe impl Send for Handle {}

impl Nccl {
    /// Opens libtorch's NCCL, or the system's, for GPU `gpu`.
    ///
    /// # Errors
    /// No library is found: lists the searched paths and the command that installs it.
    pub fn load(gpu: usize) -> Result<Self, CommError> {
        let folder = libtorch_folder().map_err(|error| CommError::Unavailable(error.to_string()))?;
        Self::open(&Self::places(&folder), gpu)
    }

    /// Returns the paths that [`Self::load`] tries, in order, for a libtorch in `folder`. A bare name is searched among
    /// the loaded libraries (libtorch for CUDA includes NCCL), in `LD_LIBRARY_PATH` and in the system's folders.
    pub fn places(folder: &Path) -> Vec<PathBuf> {
        let wheel = folder.join("../../nvidia/nccl/lib").join(LIBRARY_FILE);
        vec![LIBRARY_FILE.into(), "libnccl.so".into(), folder.join(LIBRARY_FILE), wheel]
    }

    /// Opens the first of `places` that is NCCL.
    ///
    /// # Errors
    /// None of them is: lists the error of each and the command that installs NCCL.
    pub fn open(places: &[PathBuf], gpu: usize) -> Result<Self, CommError> {
        let mut problems = Vec::new();
        for place in places {
            match Self::open_one(place, gpu) {
                Ok(nccl) => return Ok(nccl),
                Err(problem) => problems.push(format!("\n    {}: {problem}", place.display())),
            }
        }
        Err(CommError::Unavailable(format!(
            "ranks on GPUs talk through NCCL, and it is not found. Install it (`pip install nvidia-nccl-cu13`) and add the folder of \
             {LIBRARY_FILE} to LD_LIBRARY_PATH, or set finetune.trainer.accelerator=cpu. Tried:{}",
            problems.concat()
        )))
    }

    fn open_one(place: &Path, gpu: usize) -> Result<Self, String> {
        // SAFETY: opening runs the library's initializers. A file with NCCL's name is trusted to be NCCL: the paths are
        // the system's, libtorch's and the user's own.
        let library = unsafe { Library::new(place) }.map_err(|error| error.to_string())?;
        let functions = Functions::of(library)?;
        let mut version = 0;
        // SAFETY: `version` is a valid pointer.
        let result = unsafe { (functions.ncclGetVersion)(&raw mut version) };
        if result != ncclResult_t::ncclSuccess || version < MIN_VERSION {
            return Err(format!("version {}, and 2.14 or newer is needed", dotted(version)));
        }
        Ok(Self {
            functions,
            gpu,
            version: dotted(version),
        })
    }

    /// Returns the library's version, such as `2.28.9`; the same on all ranks.
    pub fn version(&self) -> &str {
        &self.version
    }

    fn check(&self, result: ncclResult_t) -> Result<(), String> {
        if matches!(result, ncclResult_t::ncclSuccess | ncclResult_t::ncclInProgress) {
            return Ok(());
        }
        // SAFETY: takes a number and returns a static string.
        let text = unsafe { (self.functions.ncclGetErrorString)(result) };
        // SAFETY: the communicator is ignored and may be null, as NCCL's header says; returns a static buffer.
        let last = unsafe { (self.functions.ncclGetLastError)(null_mut()) };
        let (text, last) = (owned(text), owned(last));
        Err(if last.is_empty() {
            format!("NCCL: {text}")
        } else {
            format!("NCCL: {text}: {last}")
        })
    }
}

impl Backend for Nccl {
    type Communicator = Handle;
    type Stream = Stream;
    type Event = Event;

    fn device(&self) -> Device {
        Device::Cuda(self.gpu)
    }

    fn is_on_device(&self, tensor: &Tensor) -> bool {
        tensor.device().is_cuda()
    }

    fn unique_id(&self) -> Result<Vec<u8>, String> {
        let mut id = ncclUniqueId { internal: [0; 128] };
        // SAFETY: `id` is a valid pointer.
        let result = unsafe { (self.functions.ncclGetUniqueId)(&raw mut id) };
        self.check(result)?;
        Ok(id.internal.map(|byte| byte as u8).to_vec())
    }

    fn init_rank(&self, id: &[u8], rank: usize, size: usize) -> Result<Handle, String> {
        let bytes: [u8; 128] = id.try_into().map_err(|_| format!("an id has 128 bytes, not {}", id.len()))?;
        let id = ncclUniqueId {
            internal: bytes.map(|byte| byte as c_char),
        };
        // A communicator is formed on the GPU of the thread.
        set_cuda_device(self.gpu).map_err(|error| error.to_string())?;
        let (mut communicator, mut config) = (null_mut(), config());
        // SAFETY: both pointers are valid; `config`, which NCCL copies, contains its size.
        let result = unsafe { (self.functions.ncclCommInitRankConfig)(&raw mut communicator, int(size)?, id, int(rank)?, &raw mut config) };
        self.check(result)?;
        if communicator.is_null() {
            return Err("NCCL: no communicator came back".into());
        }
        Ok(Handle(communicator))
    }

    fn is_ready(&self, communicator: &Handle) -> Result<bool, String> {
        let mut state = ncclResult_t::ncclSuccess;
        // SAFETY: the communicator is alive; `state` is a valid pointer.
        let result = unsafe { (self.functions.ncclCommGetAsyncError)(communicator.0, &raw mut state) };
        self.check(result)?;
        self.check(state)?;
        Ok(state == ncclResult_t::ncclSuccess)
    }

    fn enqueue(&self, communicator: &Handle, call: &Call<'_>, stream: Stream) -> Result<(), String> {
        let stream: cudaStream_t = stream.handle().map_err(|error| error.to_string())?.cast();
        let (comm, functions) = (communicator.0, &self.functions);
        let result = match *call {
            Call::AllReduce { tensor, reduce } => {
                let (data, kind, op) = (self.memory(tensor)?, reducible(tensor.kind(), reduce)?, operator(reduce));
                // SAFETY: `data` is the memory of a contiguous tensor on the GPU with as many elements of `kind`
                // (checked), which `NcclWork` holds until `stream` has passed; the communicator is alive.
                unsafe { (functions.ncclAllReduce)(data, data, tensor.numel(), kind, op, comm, stream) }
            }
            Call::AllGather { into, tensor } => {
                let (data, target, (kind, count)) = (self.memory(tensor)?, self.memory(into)?, elements(tensor));
                // SAFETY: as for a reduction; `into` is as many times as large as there are ranks (checked).
                unsafe { (functions.ncclAllGather)(data, target, count, kind, comm, stream) }
            }
            Call::ReduceScatter { into, tensor } => {
                let (data, target) = (self.memory(tensor)?, self.memory(into)?);
                let (kind, op) = (reducible(tensor.kind(), Reduce::Sum)?, operator(Reduce::Sum));
                // SAFETY: as for a reduction; `tensor` is as many times as large as there are ranks (checked).
                unsafe { (functions.ncclReduceScatter)(data, target, into.numel(), kind, op, comm, stream) }
            }
            Call::Broadcast { tensor, root } => {
                let (data, (kind, count), root) = (self.memory(tensor)?, elements(tensor), int(root)?);
                // SAFETY: as for a reduction.
                unsafe { (functions.ncclBroadcast)(data, data, count, kind, root, comm, stream) }
            }
            Call::Send { tensor, to } => {
                let (data, (kind, count), to) = (self.memory(tensor)?, elements(tensor), int(to)?);
                // SAFETY: as for a reduction.
                unsafe { (functions.ncclSend)(data, count, kind, to, comm, stream) }
            }
            Call::Recv { into, from } => {
                let (target, (kind, count), from) = (self.memory(into)?, elements(into), int(from)?);
                // SAFETY: as for a reduction.
                unsafe { (functions.ncclRecv)(target, count, kind, from, comm, stream) }
            }
        };
        self.check(result)
    }

    fn finalize(&self, communicator: &Handle) -> Result<(), String> {
        // SAFETY: the communicator is alive.
        let result = unsafe { (self.functions.ncclCommFinalize)(communicator.0) };
        self.check(result)
    }

    fn destroy(&self, communicator: Handle) {
        // SAFETY: the communicator is alive and owned here; it is not used again. A failure cannot be handled.
        let _ = unsafe { (self.functions.ncclCommDestroy)(communicator.0) };
    }

    fn abort(&self, communicator: Handle) {
        // SAFETY: as for `destroy`.
        let _ = unsafe { (self.functions.ncclCommAbort)(communicator.0) };
    }

    fn new_stream(&self) -> Result<Stream, String> {
        Stream::from_pool(self.gpu).map_err(|error| error.to_string())
    }

    fn current_stream(&self) -> Result<Stream, String> {
        Stream::current(self.gpu).map_err(|error| error.to_string())
    }

    fn record_event(&self, stream: Stream) -> Result<Event, String> {
        Event::record(stream).map_err(|error| error.to_string())
    }

    fn wait_event(&self, stream: Stream, event: &Event) -> Result<(), String> {
        stream.wait_event(event).map_err(|error| error.to_string())
    }

    fn is_complete(&self, event: &Event) -> Result<bool, String> {
        event.query().map_err(|error| error.to_string())
    }

    fn record_stream(&self, stream: Stream, tensor: &Tensor) {
        if let Err(error) = stream.record_tensor(tensor) {
            tracing::warn!("the memory of a tensor in flight may be reused too early: {error}");
        }
    }
}

impl Nccl {
    /// Returns the address of a tensor on this GPU.
    fn memory(&self, tensor: &Tensor) -> Result<*mut c_void, String> {
        if tensor.device() != self.device() {
            return Err(format!("the tensor is on {:?}, this rank on {:?}", tensor.device(), self.device()));
        }
        Ok(tensor.data_ptr())
    }
}

fn int(value: usize) -> Result<c_int, String> {
    c_int::try_from(value).map_err(|_| format!("{value} is above {}", c_int::MAX))
}

/// Formats a version: `22809` is 2.28.9; `2708`, the format up to 2.8, is 2.7.8.
fn dotted(version: c_int) -> String {
    let (major, rest) = if version < 10_000 {
        (version / 1_000, version % 1_000)
    } else {
        (version / 10_000, version % 10_000)
    };
    format!("{major}.{}.{}", rest / 100, rest % 100)
}

/// Copies a C string; empty for null.
fn owned(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: not null, and one of NCCL's own strings, which end in NUL and live as long as the library.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().trim_end().to_owned()
}
