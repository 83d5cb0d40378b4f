//! Containers of jobs: requests and scripts as golden files, refused settings, and scripts that run without a container.
//! `UPDATE=1` writes the golden files.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cases;
mod golden;
mod refusals;
mod running;
