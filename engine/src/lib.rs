//! Everything that touches tensors: NeVA models on libtorch, in any layout.
//!
//! The engine reads a resolved launch plan and trains it as one rank. It parses no YAML and knows no
//! executor. Models know no ranks: how a parameter is cut stands in `neva-layout`.
// Not `forbid`: comm/nccl.rs calls a foreign library.
#![deny(unsafe_code)]

pub mod checkpoint;
pub mod comm;
mod error;
pub mod generate;
pub mod loss;
pub mod model;
pub mod nn;
pub mod optim;
pub mod parallel;
pub mod parameters;
mod precision;
mod random;
mod rank;
pub mod trainer;

pub use error::{EngineError, Result};
pub use rank::{LibtorchEngine, engine, rank_main};
pub use trainer::{Callback, DataModule, Flow, Registry, RunData, RunView, StopRequest};
