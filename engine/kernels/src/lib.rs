//! Fused kernels of NVIDIA GPUs. **Compiled and computed in tests without a GPU; not verified on a GPU.**
//!
//! The CUDA C++ in `cu/` is compiled by NVRTC when a run starts, for the GPU that it has; building needs no CUDA. A call runs
//! the kernel where all its tensors are on a GPU with compiled kernels and in a data type that these have, and else
//! libtorch's formula. The tests compile the same sources for the CPU, and compare values and gradients with the formulae.
//!
//! | module | owns |
//! |---|---|
//! | `source` | the CUDA C++, and the names of its kernels |
//! | `nvrtc` | its compilation |
//! | `launch` | calls of kernels |
//! | `gpu` | a GPU's compiled kernels, on libtorch's stream |
//! | `kernels` | the kernels of this process, by GPU |
//! | `quantize`, `rms_norm`, `rope`, `swiglu` | operations: the formula, and the autograd node of the kernels |
//! | `comparison` | differences of kernels from formulae |
//!
//! Shape suffixes are those of `neva_engine::nn`.
#![expect(unsafe_code, reason = "calls of NVRTC and of CUDA's driver")]

pub mod comparison;
mod gpu;
mod kernels;
pub mod launch;
mod nvrtc;
mod quantize;
mod rms_norm;
mod rope;
pub mod source;
mod swiglu;

pub use kernels::Kernels;
pub use nvrtc::{compile, nvrtc_folders};
pub use quantize::{Fp8Matrix, amax, quantize, transpose};
pub use rms_norm::rms_norm;
pub use rope::rotate;
pub use swiglu::swiglu;
