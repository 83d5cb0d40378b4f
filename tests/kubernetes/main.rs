//! Runs on a real Kubernetes cluster of two nodes, which `make e2e-kubernetes` starts; `cargo test` does not run this.
//!
//! Tests that stop nodes or the API server have a cluster of their own.
#![forbid(unsafe_code)]

mod authentication;
mod cluster;
mod connection;
mod doctor;
mod documents;
mod manifests;
mod nodes;
mod refusals;
mod secrets;
mod servers;
mod training;
mod watched;
