//! Batch scripts for Slurm: whole scripts as files, and scripts that run with stand-ins for Slurm's programs.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cases;
mod golden;
mod machine;
mod refusals;
mod running;
