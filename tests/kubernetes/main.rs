//! Runs on a real Kubernetes cluster, which `make e2e-kubernetes` starts; `cargo test` does not run this.
//!
//! `NEVA_TEST_KUBECONFIG` names another cluster. The tests of the module `own_servers` cannot run there, since they stop nodes and the
//! API server, or act as its administrator: `make e2e-kubernetes` leaves them out and lists them.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test panics where something is wrong")]
#![expect(clippy::format_push_string, reason = "short texts of tests")]
#![expect(clippy::disallowed_methods, reason = "some waits are for nothing to happen; PATH is passed on")]

mod cluster;
mod disturbed;
mod files;
mod launchers;
mod objects;
mod output;
mod own_servers;
mod refusals;
mod results;
mod space;
mod training;
mod watched;
