//! Ranks with a GPU each, over NVIDIA's NCCL. **Built and tested with a library and a GPU of the tests' own; not
//! verified on a GPU.**
//!
//! - **The library** is opened when a run asks for it, never to build or to run on CPUs. `cudarc` declares NCCL's
//!   functions; its own loader knows only the name `libnccl.so`, which NVIDIA's wheel does not have, so functions are
//!   looked up here, and one whose type is not cudarc's does not compile.
//! - **Communicators** are not blocking: NCCL returns at once, and the host waits with a deadline for what it began.
//!   Each has a stream of its own. Events order libtorch's stream before it when a call begins, and the other way round
//!   at [`Pending::wait`](super::Pending::wait); the host never waits for the GPU.
//! - **Nothing hangs**: a thread of each rank ends all its communicators when a call is too old, when NCCL reports an
//!   error, or when another rank gave up (`nccl/watch.rs`).
//! - **Transfers** go over a communicator for each direction of each pair of neighbours (two ranks that send to each
//!   other at once would wait for each other on one), and are matched by tags although NCCL knows none
//!   (`nccl/link.rs`): the sender announces each over Gloo, and the receiver begins receives in that order. The
//!   pipeline asks for what it needs two actions ahead and in its own order, which need not be its neighbour's.
//! - **Tensors of the host** (sums of losses, counts of labels, headers) go over Gloo.
#![expect(unsafe_code, reason = "calls of NCCL")]

mod backend;
mod communicator;
mod group;
mod kinds;
mod link;
mod watch;

pub use backend::{Backend, Call};
pub use group::{NcclFabric, NcclWorld};

use super::collective::{CommError, Reduce};
use cudarc::nccl::sys::{self, cudaStream_t, ncclComm_t, ncclConfig_t, ncclDataType_t, ncclRedOp_t, ncclResult_t, ncclUniqueId};
use kinds::{elements, operator, reducible};
use libloading::Library;
use neva_torch_ffi::{Event, Stream, libtorch_folder, set_gpu};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr::null_mut;
use tch::{Device, Tensor};

/// Name of the library, with the number of its interface.
const FILE: &str = "libnccl.so.2";
/// The first version whose configuration is the one below.
const OLDEST: c_int = 21_400;

/// The types of NCCL's functions; those of cudarc, or this does not compile.
macro_rules! functions {
    ($($name:ident($($argument:ty),*) -> $result:ty;)*) => {
        #[expect(non_snake_case, reason = "NCCL's names")]
        struct Functions {
            $($name: unsafe extern "C" fn($($argument),*) -> $result,)*
            /// Open for as long as the functions are called.
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
    /// Opens the NCCL that libtorch brought, or the system's, for GPU `gpu`.
    ///
    /// # Errors
    /// There is none: where it was looked for, and what installs it.
    pub fn load(gpu: usize) -> Result<Self, CommError> {
        let folder = libtorch_folder().map_err(|error| CommError::Unavailable(error.to_string()))?;
        Self::open(&Self::places(&folder), gpu)
    }

    /// Where NCCL may lie beside a libtorch in `folder`, in the order of [`Self::load`]. A bare name is looked for among
    /// the libraries that are loaded (libtorch for CUDA brings its NCCL), in `LD_LIBRARY_PATH` and the system's folders.
    pub fn places(folder: &Path) -> Vec<PathBuf> {
        let wheel = folder.join("../../nvidia/nccl/lib").join(FILE);
        vec![FILE.into(), "libnccl.so".into(), folder.join(FILE), wheel]
    }

    /// Opens the first of `places` that is NCCL.
    ///
    /// # Errors
    /// None is: why not, each, and what installs it.
    pub fn open(places: &[PathBuf], gpu: usize) -> Result<Self, CommError> {
        let mut problems = Vec::new();
        for place in places {
            match Self::open_one(place, gpu) {
                Ok(nccl) => return Ok(nccl),
                Err(problem) => problems.push(format!("\n    {}: {problem}", place.display())),
            }
        }
        Err(CommError::Unavailable(format!(
            "ranks on GPUs talk through NCCL, and it is not found. Install it (`pip install nvidia-nccl-cu13`) and add the folder of {FILE} \
             to LD_LIBRARY_PATH, or set finetune.trainer.accelerator=cpu. Tried:{}",
            problems.concat()
        )))
    }

    fn open_one(place: &Path, gpu: usize) -> Result<Self, String> {
        // SAFETY: opening runs the library's initializers, and what bears NCCL's name is taken for NCCL: the places
        // are the system's, libtorch's and the user's own.
        let library = unsafe { Library::new(place) }.map_err(|error| error.to_string())?;
        let functions = Functions::of(library)?;
        let mut version = 0;
        // SAFETY: `version` is a place for a number.
        let result = unsafe { (functions.ncclGetVersion)(&raw mut version) };
        if result != ncclResult_t::ncclSuccess || version < OLDEST {
            return Err(format!("version {}, and 2.14 or newer is needed", dotted(version)));
        }
        Ok(Self {
            functions,
            gpu,
            version: dotted(version),
        })
    }

    /// The library's version, such as `2.28.9`. Ranks have the same.
    pub fn version(&self) -> &str {
        &self.version
    }

    fn check(&self, result: ncclResult_t) -> Result<(), String> {
        if matches!(result, ncclResult_t::ncclSuccess | ncclResult_t::ncclInProgress) {
            return Ok(());
        }
        // SAFETY: takes a number, and gives a static string.
        let text = unsafe { (self.functions.ncclGetErrorString)(result) };
        // SAFETY: takes no notice of the communicator, which NCCL's header lets be null, and gives a static buffer.
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

    fn carries(&self, tensor: &Tensor) -> bool {
        tensor.device().is_cuda()
    }

    fn unique_id(&self) -> Result<Vec<u8>, String> {
        let mut id = ncclUniqueId { internal: [0; 128] };
        // SAFETY: `id` is a place for an id.
        let result = unsafe { (self.functions.ncclGetUniqueId)(&raw mut id) };
        self.check(result)?;
        Ok(id.internal.map(|byte| byte as u8).to_vec())
    }

    fn join(&self, id: &[u8], rank: usize, size: usize) -> Result<Handle, String> {
        let bytes: [u8; 128] = id.try_into().map_err(|_| format!("an id has 128 bytes, not {}", id.len()))?;
        let id = ncclUniqueId {
            internal: bytes.map(|byte| byte as c_char),
        };
        // A communicator is formed on the GPU of the thread.
        set_gpu(self.gpu).map_err(|error| error.to_string())?;
        let (mut communicator, mut config) = (null_mut(), config());
        // SAFETY: `communicator` is a place for a pointer, and `config`, which NCCL copies, tells its own size.
        let result = unsafe { (self.functions.ncclCommInitRankConfig)(&raw mut communicator, int(size)?, id, int(rank)?, &raw mut config) };
        self.check(result)?;
        if communicator.is_null() {
            return Err("NCCL: no communicator came back".into());
        }
        Ok(Handle(communicator))
    }

    fn is_ready(&self, communicator: &Handle) -> Result<bool, String> {
        let mut state = ncclResult_t::ncclSuccess;
        // SAFETY: the communicator is alive; `state` is a place for a result.
        let result = unsafe { (self.functions.ncclCommGetAsyncError)(communicator.0, &raw mut state) };
        self.check(result)?;
        self.check(state)?;
        Ok(state == ncclResult_t::ncclSuccess)
    }

    fn issue(&self, communicator: &Handle, call: &Call<'_>, stream: Stream) -> Result<(), String> {
        let stream: cudaStream_t = stream.handle().map_err(|error| error.to_string())?.cast();
        let (comm, functions) = (communicator.0, &self.functions);
        let result = match *call {
            Call::AllReduce { tensor, reduce } => {
                let (data, kind, op) = (self.memory(tensor)?, reducible(tensor.kind(), reduce)?, operator(reduce));
                // SAFETY: `data` is the memory of a contiguous tensor on the GPU with as many elements of `kind`
                // (checked), which `InFlight` holds until `stream` has passed; the communicator is alive.
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
        // SAFETY: the communicator is alive, and owned here: nobody uses it again. Nothing can be done about a failure.
        let _ = unsafe { (self.functions.ncclCommDestroy)(communicator.0) };
    }

    fn abort(&self, communicator: Handle) {
        // SAFETY: as for `destroy`.
        let _ = unsafe { (self.functions.ncclCommAbort)(communicator.0) };
    }

    fn new_stream(&self) -> Result<Stream, String> {
        Stream::pooled(self.gpu).map_err(|error| error.to_string())
    }

    fn current_stream(&self) -> Result<Stream, String> {
        Stream::current(self.gpu).map_err(|error| error.to_string())
    }

    fn mark(&self, stream: Stream) -> Result<Event, String> {
        Event::record(stream).map_err(|error| error.to_string())
    }

    fn order(&self, stream: Stream, event: &Event) -> Result<(), String> {
        stream.wait_for(event).map_err(|error| error.to_string())
    }

    fn is_over(&self, event: &Event) -> Result<bool, String> {
        event.is_over().map_err(|error| error.to_string())
    }

    fn keep(&self, stream: Stream, tensor: &Tensor) {
        if let Err(error) = stream.keep(tensor) {
            tracing::warn!("the memory of a tensor under way may be used again too early: {error}");
        }
    }
}

impl Nccl {
    /// Where a tensor of this GPU lies.
    fn memory(&self, tensor: &Tensor) -> Result<*mut c_void, String> {
        if tensor.device() != self.device() {
            return Err(format!("the tensor is on {:?}, this rank on {:?}", tensor.device(), self.device()));
        }
        Ok(tensor.data_ptr())
    }
}

/// NCCL's `NCCL_CONFIG_INITIALIZER`, but for `blocking`.
fn config() -> ncclConfig_t {
    const UNDEFINED: c_int = c_int::MIN;
    ncclConfig_t {
        size: size_of::<ncclConfig_t>(),
        magic: 0xcafe_beef,
        // Of the header that the fields are from.
        version: 22_803,
        blocking: 0,
        cgaClusterSize: UNDEFINED,
        minCTAs: UNDEFINED,
        maxCTAs: UNDEFINED,
        netName: std::ptr::null(),
        splitShare: UNDEFINED,
        trafficClass: UNDEFINED,
        commName: std::ptr::null(),
        collnetEnable: UNDEFINED,
        CTAPolicy: UNDEFINED,
        shrinkShare: UNDEFINED,
        nvlsCTAs: UNDEFINED,
        nChannelsPerNetPeer: UNDEFINED,
        nvlinkCentricSched: UNDEFINED,
    }
}

fn int(value: usize) -> Result<c_int, String> {
    c_int::try_from(value).map_err(|_| format!("{value} is above {}", c_int::MAX))
}

/// `22809` is 2.28.9; `2708`, as it was written up to 2.8, is 2.7.8.
fn dotted(version: c_int) -> String {
    let (major, rest) = if version < 10_000 {
        (version / 1_000, version % 1_000)
    } else {
        (version / 10_000, version % 10_000)
    };
    format!("{major}.{}.{}", rest / 100, rest % 100)
}

/// A copy of a C string; nothing for null.
fn owned(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: it is not null, and one of NCCL's own strings, which end in NUL and live as long as the library.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_says_what_it_is() {
        let config = config();
        // NCCL 2.28's `ncclConfig_t` on a machine of 64 bits.
        assert_eq!((config.size, config.magic, config.blocking), (80, 0xcafe_beef, 0));
        assert_eq!((config.nvlinkCentricSched, config.netName.is_null()), (c_int::MIN, true));
    }
}
