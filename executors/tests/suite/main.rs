//! Tests of executors through the public API: submissions, and jobs of shell scripts.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fake_slurm;
mod local;
mod local_tunnel;
mod packager;
mod render;
mod support;
mod watched_jobs;
