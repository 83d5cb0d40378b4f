//! Runs on a real Kubernetes cluster of two nodes, which `make e2e-kubernetes` starts; `cargo test` does not run this.
//!
//! Tests that stop nodes or the API server have a cluster of their own.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test panics where something is wrong")]
#![expect(clippy::format_push_string, reason = "short texts of tests")]
#![expect(clippy::disallowed_methods, reason = "some waits are for nothing to happen; PATH is passed on")]

mod authentication;
mod cluster;
mod connection;
mod doctor;
mod documents;
mod manifests;
mod nodes;
mod refusals;
mod results;
mod secrets;
mod servers;
mod training;
mod watched;
