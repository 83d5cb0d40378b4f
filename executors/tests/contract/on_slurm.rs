//! The contract of executors on a real Slurm cluster. `make e2e-slurm` brings one up and runs this; `cargo test` does not.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cases;
mod fixture;
mod slurm;
#[macro_use]
mod suite;

mod on_a_cluster {
    contract!(slurm, crate::slurm::SlurmFixture::here());
}
