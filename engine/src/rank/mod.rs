//! One rank: from its environment and a plan to a trained model, and its verdict as an exit code.

mod cli;
mod device;
mod environment;
mod failure;
mod run;

pub use cli::rank_main;
pub use run::{LibtorchEngine, engine};
