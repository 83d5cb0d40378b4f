//! Bindings for the parts of libtorch that the engine needs and `tch` does not have: custom autograd functions,
//! backward with given gradients, gradient hooks, c10d's stores and Gloo process group, CUDA streams and events, fused
//! optimizer kernels, and data types that `tch` does not name.
//!
//! This crate has all C++ that sees libtorch. There are three layers:
//!
//! 1. `cpp/` and `sys.rs`: declarations without policy. Every C++ exception becomes a status.
//! 2. The public modules of this crate: safe Rust. They check devices, dtypes, contiguity and sizes before the
//!    foreign call, and own the lifetimes.
//! 3. The engine: no `unsafe`.
//!
//! The crate knows nothing of meshes, models or configurations.
#![expect(unsafe_code, reason = "calls of C++")]

pub mod allocator;
pub mod autograd;
mod backward;
mod callback;
mod dtypes;
pub mod error;
pub mod foreach;
pub mod gloo;
mod hooks;
mod operators;
mod optim;
mod settings;
pub mod store;
pub mod stream;
mod sys;
mod tensors;
mod work;

pub use autograd::{Function, apply, is_grad_enabled};
pub use backward::{backward, grad, owns_memory, take_grad};
pub use callback::BoxError;
pub use dtypes::view_e8m0;
pub use error::{Error, Result};
pub use gloo::{Bind, GlooGroup, GlooOptions, ReduceOp};
pub use hooks::{HookHandle, on_grad_ready};
pub use operators::OperatorCount;
pub use optim::{AdamW, AdamWSlot, LossScale, fused_adamw_};
pub use settings::{
    AttentionKernels, LogLevel, Precision, allows_tf32, choose_float32_products, float32_products_by_onednn, forbid_tf32,
    keep_freed_memory, libtorch_folder, libtorch_version, load_cuda, set_attention_kernels, set_deterministic_algorithms,
    set_float32_matmul_precision, set_log_level,
};
pub use store::{Store, TcpStore};
pub use stream::{Event, Stream, set_cuda_device};
pub use work::Work;
