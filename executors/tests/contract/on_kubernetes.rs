//! The contract of executors on a real Kubernetes cluster. `make e2e-kubernetes` brings it up and runs this; `cargo test` does not.
//! `NEVA_TEST_KUBECONFIG` names a cluster of one's own instead.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cases;
mod cluster_files;
mod fixture;
mod kubernetes;
#[macro_use]
mod suite;

mod on_a_cluster {
    contract!(kubernetes, crate::kubernetes::KubernetesFixture::new());
}
