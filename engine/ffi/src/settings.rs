//! Process-wide settings of libtorch, and the version and folder of the loaded libtorch.

use std::path::PathBuf;
use std::ptr::null_mut;
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result, take_string};
use crate::sys;
use tch::{Device, Kind, Tensor};

/// Precision of `Kind::Float` matrix products on hardware with faster, less precise modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// 24 bits of mantissa, libtorch's default.
    Highest,
    /// TF32, or the sum of two bf16 products.
    High,
    /// One bf16 product internally; inputs and outputs are float.
    Medium,
}

/// Sets the precision of float matrix products, as `torch.set_float32_matmul_precision` does.
pub fn set_float32_matmul_precision(precision: Precision) -> Result<()> {
    let name = match precision {
        Precision::Highest => c"highest",
        Precision::High => c"high",
        Precision::Medium => c"medium",
    };
    // SAFETY: `name` is a static C string.
    unsafe { sys::neva_set_float32_matmul_precision(name.as_ptr()) }.check("set the float32 matmul precision")
}

/// Greatest error of a float product of 256 terms, relative to the sum of their magnitudes, that counts as single precision: bf16
/// inside would give 1e-3, TF32 1e-4.
const SINGLE: f64 = 1e-6;

/// Whether oneDNN computes float products of the CPU, once it was chosen.
static BY_ONEDNN: Mutex<Option<bool>> = Mutex::new(None);

/// Lets oneDNN compute float matrix products of the CPU, which is faster than MKL on many processors, if its products are as
/// accurate as single precision; otherwise leaves them to MKL. Returns whether oneDNN computes them. The result depends on the
/// processor and on libtorch alone.
///
/// The first call chooses for the whole process. Call it before the first product: the two differ in their last bits.
pub fn choose_float32_products() -> Result<bool> {
    let mut chosen = BY_ONEDNN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(chosen) = *chosen {
        return Ok(chosen);
    }
    set_float32_matmul_precision(Precision::Medium)?;
    let accurate = error_of_products().map_err(|error| Error::torch("measure the error of a matrix product", &error))? < SINGLE;
    if !accurate {
        set_float32_matmul_precision(Precision::Highest)?;
    }
    *chosen = Some(accurate);
    Ok(accurate)
}

/// Returns whether [`choose_float32_products`] chose oneDNN.
pub fn float32_products_by_onednn() -> bool {
    BY_ONEDNN.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or(false)
}

/// Returns the greatest error of a product, relative to the sum of the terms' magnitudes.
fn error_of_products() -> std::result::Result<f64, tch::TchError> {
    let values = |phase: f64| -> std::result::Result<Tensor, tch::TchError> {
        let numbers = Tensor::f_arange(256 * 256, (Kind::Double, Device::Cpu))?;
        numbers
            .f_mul_scalar(0.7)?
            .f_add_scalar(phase)?
            .f_sin()?
            .f_view([256, 256])?
            .f_to_kind(Kind::Float)
    };
    let (a, b) = (values(0.1)?, values(0.5)?);
    let exact = |x: &Tensor| x.f_to_kind(Kind::Double);
    let wide = exact(&a)?.f_matmul(&exact(&b)?)?;
    let magnitude = exact(&a)?.f_abs()?.f_matmul(&exact(&b)?.f_abs()?)?;
    let error = exact(&a.f_matmul(&b)?)?.f_sub(&wide)?.f_abs()?.f_div(&magnitude)?;
    error.f_max()?.f_double_value(&[])
}

/// Makes GPUs compute matrix products and convolutions of `Kind::Float` in full precision. By default cuDNN rounds to
/// TF32, which has a 10-bit mantissa.
pub fn forbid_tf32() -> Result<()> {
    // SAFETY: no pointer is passed.
    unsafe { sys::neva_forbid_tf32() }.check("forbid TF32")
}

/// Returns true if a GPU may round matrix products or convolutions of `Kind::Float` to TF32.
pub fn allows_tf32() -> Result<bool> {
    let mut allows = true;
    // SAFETY: `allows` is a valid bool to write to.
    unsafe { sys::neva_allows_tf32(&raw mut allows) }.check("read the float32 precision")?;
    Ok(allows)
}

/// Selects deterministic algorithms, which return the same bits in every run, as `torch.use_deterministic_algorithms`
/// does. An operation without a deterministic algorithm then returns an error.
pub fn set_deterministic_algorithms(on: bool) -> Result<()> {
    // SAFETY: no pointer is passed.
    unsafe { sys::neva_set_deterministic_algorithms(on) }.check("set deterministic algorithms")
}

/// Kernels that `scaled_dot_product_attention` may choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionKernels {
    /// Flash attention.
    pub flash: bool,
    /// Memory-efficient attention.
    pub efficient: bool,
    /// cuDNN's attention.
    pub cudnn: bool,
    /// Matrix products and a softmax.
    pub math: bool,
}

/// Sets the kernels that `scaled_dot_product_attention` may choose, as `torch.nn.attention.sdpa_kernel` does. A call without
/// any suitable kernel returns an error.
pub fn set_attention_kernels(kernels: AttentionKernels) -> Result<()> {
    let AttentionKernels {
        flash,
        efficient,
        cudnn,
        math,
    } = kernels;
    // SAFETY: no pointer is passed.
    unsafe { sys::neva_set_attention_kernels(flash, efficient, cudnn, math) }.check("set the kernels of attention")
}

/// Minimum severity of the messages that libtorch writes to standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Everything.
    Info = 0,
    /// Warnings and errors.
    Warning = 1,
    /// Errors, libtorch's usual default. The messages have a C++ backtrace, even if the caller gets an `Err`.
    Error = 2,
    /// Only errors that end the process.
    Fatal = 3,
}

/// Sets libtorch's log level and overrides `TORCH_CPP_LOG_LEVEL`. Call it before other threads start.
///
/// This crate's functions return errors, so a program that reports them itself should set `Fatal`.
pub fn set_log_level(level: LogLevel) {
    sys::neva_set_log_level(level as i32);
}

/// Returns the version of the loaded libtorch, such as `2.11.0`. Ranks compare it at rendezvous.
pub fn libtorch_version() -> Result<String> {
    const OP: &str = "read libtorch's version";
    let mut text = null_mut();
    // SAFETY: `text` has room for one pointer.
    unsafe { sys::neva_show_config(&raw mut text) }.check(OP)?;
    let text = take_string(text);
    let version = text
        .split("TORCH_VERSION=")
        .nth(1)
        .and_then(|rest| rest.split([',', ' ', '\n']).next());
    match version {
        Some(version) => Ok(version.to_owned()),
        None => Err(Error::Torch {
            op: OP,
            message: format!("no TORCH_VERSION in {text:?}"),
        }),
    }
}

/// Returns the folder that libtorch was loaded from. Other libraries are loaded from the same folder.
pub fn libtorch_folder() -> Result<PathBuf> {
    let mut path = null_mut();
    // SAFETY: `path` has room for one pointer.
    unsafe { sys::neva_libtorch_file(&raw mut path) }.check("find libtorch")?;
    let mut folder = PathBuf::from(take_string(path));
    folder.pop();
    Ok(folder)
}

/// Loads `libtorch_cuda.so` from the folder of the loaded `libtorch_cpu.so`. Returns false if it does not exist there.
///
/// Call it before the first tensor. The same binary thus runs on machines with and without CUDA: linking needs no CUDA
/// library, and the CUDA kernels are in `libtorch_cuda.so`.
///
/// # Errors
/// Returns [`Error::Torch`] with the loader's text if the library exists and cannot be loaded.
pub fn load_cuda() -> Result<bool> {
    let mut loaded = false;
    // SAFETY: `loaded` has room for a bool.
    unsafe { sys::neva_load_cuda(&raw mut loaded) }.check("load CUDA")?;
    Ok(loaded)
}

/// Has the C library keep freed memory for later allocations instead of returning it to the system: a training step then takes
/// no new pages, whose first use costs a fault each. Tensors ask it for memory in a way that fills freed blocks again. Returns
/// false if the C library has no such setting.
///
/// The process keeps its largest size. Call it before the first large tensor.
pub fn keep_freed_memory() -> bool {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // By default, 32 MiB and more come from mmap, and each use of them anew faults in every page.
        let set = |parameter, value| {
            // SAFETY: mallopt is called with its own constants, and locks the heap.
            unsafe { libc::mallopt(parameter, value) == 1 }
        };
        // -1: nothing is ever returned. 64 MiB: the heap grows in few steps.
        let keeps = set(libc::M_MMAP_MAX, 0) && set(libc::M_TRIM_THRESHOLD, -1) && set(libc::M_TOP_PAD, 64 << 20);
        // SAFETY: no pointer is passed, and the C++ side creates the allocator once, also with several threads.
        keeps && unsafe { sys::neva_allocator_reuse() }.check("install the allocator").is_ok()
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    false
}
