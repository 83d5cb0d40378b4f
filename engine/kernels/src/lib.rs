//! Fused kernels of NVIDIA GPUs and of the processor. **Those of GPUs: compiled and computed in tests without a GPU; not verified
//! on a GPU.**
//!
//! The CUDA C++ in `cu/` is compiled by NVRTC when a run starts, for the GPU that it has; building needs no CUDA. A call runs
//! the kernel where all its tensors are on a GPU with compiled kernels and in a data type that these have, and else
//! libtorch's formula. The tests compile the same sources for the CPU, and compare values and gradients with the formulae.
//!
//! The processor's kernels are C++ in `cpp/`, compiled once for each instruction set; which one runs is chosen at run time.
//! They are compared with the formulae, too.
//!
//! | module | owns |
//! |---|---|
//! | `source` | the CUDA C++, and the names of its kernels |
//! | `nvrtc` | its compilation |
//! | `launch` | calls of kernels |
//! | `gpu` | a GPU's compiled kernels, on libtorch's stream |
//! | `processor` | the processor's kernels, by instruction set |
//! | `kernels` | the kernels of this process, by GPU |
//! | `attention`, `cross_entropy`, `halves` | operations that the processor alone has |
//! | `quantize`, `blocks`, `rms_norm`, `rope`, `swiglu` | operations: the formula, and the autograd node of the kernels |
//! | `comparison` | differences of kernels from formulae |
//!
//! Shape suffixes are those of `neva_engine::nn`.
#![expect(unsafe_code, reason = "calls of NVRTC, of CUDA's driver and of the processor's kernels")]

mod attention;
mod blocks;
pub mod comparison;
mod cross_entropy;
mod gpu;
mod halves;
mod kernels;
pub mod launch;
mod nvrtc;
mod processor;
mod quantize;
mod rms_norm;
mod rope;
pub mod source;
mod swiglu;

pub use attention::{AttentionKind, Segment, attention, prefers_blocked_attention};
pub use blocks::{BLOCK, Fp8Blocks, MX_BLOCK, current_scale, quantize_blocks, scale_tiles};
pub use cross_entropy::{covers_cross_entropy, cross_entropy_, cross_entropy_with};
pub use halves::Halves;
pub use kernels::Kernels;
pub use nvrtc::{compile, nvrtc_folders};
pub use processor::InstructionSet;
pub use quantize::{Fp8Matrix, amax, quantize, transpose};
pub use rms_norm::rms_norm;
pub use rope::rotate;
pub use swiglu::swiglu;
