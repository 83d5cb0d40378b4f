//! Settings of the whole process, and which libtorch it runs on.

use std::path::PathBuf;
use std::ptr::null_mut;

use crate::error::{Error, Result, take_string};
use crate::sys;

/// How exact a matrix product of `Kind::Float` is on hardware that can trade bits for speed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// 24 bits of mantissa, libtorch's default.
    Highest,
    /// TF32, or a sum of two bf16 products.
    High,
    /// One bf16 product inside, float outside.
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

/// Asks for operations that give the same bits in every run, as `torch.use_deterministic_algorithms` does.
/// An operation that has no such form then fails, rather than breaking the promise silently.
pub fn set_deterministic_algorithms(on: bool) -> Result<()> {
    // SAFETY: no pointer is passed.
    unsafe { sys::neva_set_deterministic_algorithms(on) }.check("set deterministic algorithms")
}

/// What libtorch writes to standard error by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Everything.
    Info = 0,
    /// Warnings and errors.
    Warning = 1,
    /// Errors: libtorch's default for most, with a C++ backtrace even where the caller gets an `Err`.
    Error = 2,
    /// Only what ends the process.
    Fatal = 3,
}

/// Sets how much libtorch logs, over its own `TORCH_CPP_LOG_LEVEL`. Call it before other threads start.
///
/// Errors are returned by this crate's functions, so a program with its own reporting wants `Fatal`.
pub fn set_log_level(level: LogLevel) {
    sys::neva_set_log_level(level as i32);
}

/// The version of the libtorch that was loaded, such as `2.11.0`: ranks compare it at rendezvous.
pub fn libtorch_version() -> Result<String> {
    const OP: &str = "read libtorch's version";
    let mut text = null_mut();
    // SAFETY: `text` is a place for one pointer.
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

/// The folder that libtorch was loaded from: other libraries are looked for beside it.
pub fn libtorch_folder() -> Result<PathBuf> {
    let mut path = null_mut();
    // SAFETY: `path` is a place for one pointer.
    unsafe { sys::neva_libtorch_file(&raw mut path) }.check("find libtorch")?;
    let mut folder = PathBuf::from(take_string(path));
    folder.pop();
    Ok(folder)
}

/// Loads `libtorch_cuda.so` if it lies beside the loaded `libtorch_cpu.so`; whether it does.
///
/// Call it before the first tensor. One binary so serves machines with and without CUDA: linking needs
/// no CUDA library, and the full libtorch brings its own kernels when it is loaded.
///
/// # Errors
/// [`Error::Torch`] with the loader's text when the library is there and cannot be loaded.
pub fn load_cuda() -> Result<bool> {
    let mut loaded = false;
    // SAFETY: `loaded` is a place for a bool.
    unsafe { sys::neva_load_cuda(&raw mut loaded) }.check("load CUDA")?;
    Ok(loaded)
}
