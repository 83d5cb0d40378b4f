//! Runs on a real Slurm cluster and a real sshd, which `make e2e-slurm` starts; `cargo test` does not run this.
//!
//! Tests that stop nodes or the controller have a cluster of their own.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test panics where something is wrong")]
#![expect(clippy::format_push_string, reason = "short texts of tests")]
#![expect(clippy::disallowed_methods, reason = "some waits are for nothing to happen")]

mod arrays;
mod cluster;
mod controller;
mod doctor;
mod documents;
mod experiment;
mod experiments;
mod groups;
mod memory;
mod packaged;
mod refusals;
mod requeue;
mod secrets;
mod shellcheck;
mod state_cases;
mod states;
mod sweeps;
mod training;
