//! The contract of executors in real containers. `make e2e-container` starts Podman and runs this; `cargo test` does not.
//! `NEVA_TEST_DOCKER_SOCKET` names the socket of a Docker or Podman of one's own instead.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cases;
mod docker;
mod executable;
mod fixture;
#[macro_use]
mod suite;

mod in_a_container {
    contract!(docker, crate::docker::DockerFixture::new());
}
