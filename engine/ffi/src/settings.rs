//! Process-wide settings of libtorch, and the version and folder of the loaded libtorch.

use std::path::PathBuf;
use std::ptr::null_mut;

use crate::error::{Error, Result, take_string};
use crate::sys;

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
