//! The contract of executors on a real Slurm cluster, here and through sshd. `make e2e-slurm` brings both up and runs this;
//! `cargo test` does not. `NEVA_TEST_SLURM_HOST` names a cluster of one's own instead.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cases;
mod cluster_files;
mod fixture;
mod slurm;
#[macro_use]
mod suite;

mod on_a_login_node {
    contract!(slurm, crate::slurm::SlurmFixture::on_a_login_node());
}

mod through_ssh {
    contract!(slurm, crate::slurm::SlurmFixture::through_ssh());
}
