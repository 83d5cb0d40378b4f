//! The kernels of this process.

use crate::gpu::Gpu;
use crate::launch::{Argument, Launch};
use crate::source::{KERNELS, SUFFIXES};
use neva_torch_ffi::{Error, Result};
use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use tch::{Device, Kind, Tensor};

/// Most GPUs of a machine, as libtorch counts them.
const GPUS: usize = 64;

/// Compiled kernels, or the reason why there are none, by GPU.
static BY_GPU: [OnceLock<std::result::Result<Kernels, String>>; GPUS] = [const { OnceLock::new() }; GPUS];

/// Kernels of a GPU that compute on the CPU: none, but in tests.
static ON_CPU: OnceLock<Kernels> = OnceLock::new();

/// Kernels of one device.
#[derive(Debug, Clone)]
pub struct Kernels {
    launch: Arc<dyn Launch>,
    /// Calls of each of [`KERNELS`].
    calls: Arc<[AtomicU64; KERNELS.len()]>,
}

impl Kernels {
    /// Returns kernels that `launch` runs.
    pub fn new(launch: Arc<dyn Launch>) -> Self {
        Self {
            launch,
            calls: Arc::new([const { AtomicU64::new(0) }; KERNELS.len()]),
        }
    }

    /// Compiles the kernels of a GPU, once in this process; a CPU needs none.
    ///
    /// # Errors
    /// The reason why there are none.
    pub fn prepare(device: Device) -> std::result::Result<(), &'static str> {
        let Device::Cuda(index) = device else { return Ok(()) };
        let Some(slot) = BY_GPU.get(index) else {
            return Err("the GPU's number is too large");
        };
        let kernels = slot.get_or_init(|| Ok(Self::new(Arc::new(Gpu::new(index)?))));
        kernels.as_ref().map(|_| ()).map_err(String::as_str)
    }

    /// Returns the kernels of a device, if [`Self::prepare`] has compiled them.
    pub fn of(device: Device) -> Option<&'static Self> {
        match device {
            Device::Cpu => ON_CPU.get(),
            Device::Cuda(index) => BY_GPU.get(index)?.get()?.as_ref().ok(),
            _ => None,
        }
    }

    /// Has these kernels compute with the CPU's tensors from now on, in the whole process: an emulator of tests. Later calls
    /// change nothing.
    pub fn serve_cpu(self) {
        let _first = ON_CPU.set(self);
    }

    /// Returns why a GPU of this process has no kernels, if [`Self::prepare`] could not compile them.
    pub fn missing() -> Option<&'static str> {
        let prepared = BY_GPU.iter().filter_map(OnceLock::get);
        prepared.filter_map(|kernels| kernels.as_ref().err()).map(String::as_str).next()
    }

    /// Returns the calls of this process so far, in the order of [`KERNELS`].
    pub fn calls_of_process() -> [u64; KERNELS.len()] {
        let prepared = BY_GPU.iter().filter_map(OnceLock::get).flatten();
        prepared.chain(ON_CPU.get()).fold([0; KERNELS.len()], |sums, kernels| {
            let calls = kernels.calls();
            std::array::from_fn(|index| sums[index] + calls[index])
        })
    }

    /// Returns true if kernels cast values like those of `tensor` to FP8.
    pub fn cover(tensor: &Tensor) -> bool {
        Self::for_all("quantize_e4m3", &[tensor]).is_some()
    }

    /// Returns the kernels for an operation on these tensors: all are on one device, in one data type that kernels have.
    pub(crate) fn for_all(kernel: &str, tensors: &[&Tensor]) -> Option<&'static Self> {
        let first = tensors.first()?;
        let same = |tensor: &&Tensor| tensor.device() == first.device() && tensor.kind() == first.kind();
        let suffix = suffix(first.kind()).filter(|suffix| SUFFIXES.contains(suffix) && tensors.iter().all(same))?;
        match first.device() {
            Device::Cpu => ON_CPU.get().or_else(|| Self::best_of_processor(&format!("{kernel}_{suffix}"))),
            device => Self::of(device),
        }
    }

    /// Returns whether there is such a kernel for values of `kind`.
    pub(crate) fn has(&self, kernel: &str, kind: Kind) -> bool {
        suffix(kind).is_some_and(|suffix| self.launch.has(&format!("{kernel}_{suffix}")))
    }

    /// Returns the calls so far, in the order of [`KERNELS`].
    pub fn calls(&self) -> [u64; KERNELS.len()] {
        self.calls.each_ref().map(|calls| calls.load(Ordering::Relaxed))
    }

    /// Returns the device of the tensors.
    pub fn device(&self) -> Device {
        self.launch.device()
    }

    /// Starts a kernel for values of `kind`.
    pub(crate) fn run(&self, kernel: &'static str, kind: Kind, blocks: i64, arguments: &[Argument<'_>]) -> Result<()> {
        let suffix = suffix(kind).ok_or_else(|| Error::Argument(format!("there is no kernel {kernel} for {kind:?}")))?;
        let other = |argument: &&Argument<'_>| matches!(argument, Argument::Tensor(tensor) if tensor.device() != self.device());
        if let Some(Argument::Tensor(tensor)) = arguments.iter().find(other) {
            let (device, own) = (tensor.device(), self.device());
            return Err(Error::Argument(format!("kernel {kernel} of {own:?} got a tensor on {device:?}")));
        }
        let blocks = u32::try_from(blocks).ok().filter(|blocks| *blocks <= i32::MAX.cast_unsigned());
        let blocks = blocks.ok_or_else(|| Error::Argument(format!("kernel {kernel}: the tensor is too large")))?;
        if blocks == 0 {
            return Ok(());
        }
        let mut values: Vec<_> = arguments.iter().map(|argument| argument.bytes()).map(u64::from_le_bytes).collect();
        let mut pointers: Vec<*mut c_void> = values.iter_mut().map(|value| (&raw mut *value).cast()).collect();
        if let Some(index) = KERNELS.iter().position(|name| *name == kernel) {
            self.calls[index].fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the operations of this crate pass the arguments that the kernel declares, in its order (the tests run each
        // of them on the CPU), after checking shapes, strides and data types. All tensors are on this device (checked).
        unsafe { self.launch.launch(&format!("{kernel}_{suffix}"), blocks, &mut pointers) }
    }
}

/// Returns the suffix of the kernels for a data type.
fn suffix(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Float => Some("f32"),
        Kind::BFloat16 => Some("bf16"),
        Kind::Half => Some("f16"),
        Kind::Uint8 => Some("u8"),
        _ => None,
    }
}
