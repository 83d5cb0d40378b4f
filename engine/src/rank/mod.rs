//! The rank program: reads its environment and a plan, trains, and returns an exit code.

mod cli;
mod device;
mod environment;
mod export_args;
mod failure;
mod generate_args;
mod log;
mod openmp;
mod run;
mod run_folder;

pub use cli::rank_main;
pub use run::{LibtorchEngine, engine};
