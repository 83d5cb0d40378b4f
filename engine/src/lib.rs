//! Training engine: NeVA models on libtorch, in any parallel layout.
//!
//! The engine reads a resolved launch plan and trains it as one rank. It parses no YAML and knows no
//! executor. Models know no ranks: `neva-layout` defines how a parameter is split.
// Not `forbid`: comm/nccl.rs calls a C library.
#![deny(unsafe_code)]

pub mod attention;
mod autograd;
pub mod batch;
pub mod checkpoint;
pub mod comm;
mod comm_error;
pub mod effects;
mod error;
pub mod export;
mod file_limit;
pub mod fp8;
pub mod generate;
pub mod loss;
pub mod model;
pub mod nn;
pub mod optim;
pub mod parallel;
pub mod param_sync;
pub mod parameters;
mod precision;
mod processor_kernels;
pub mod profile;
pub mod profiler;
pub mod quantization;
mod random;
mod rank;
pub mod sample_keys;
pub mod trainer;

pub use error::{EngineError, Result};
pub use rank::{LibtorchEngine, engine, rank_main};
pub use trainer::{Callback, DataModule, Flow, Registry, RunData, RunView, StopRequest};
