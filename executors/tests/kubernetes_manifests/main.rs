//! Objects for Kubernetes: whole manifests as golden files, checked against the CRDs of JobSet and TrainJob.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cases;
mod crds;
mod golden;
mod refusals;
mod secrets;
