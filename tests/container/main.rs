//! Runs in real containers, the image and the tarball, which `make e2e-container` makes; `cargo test` does not run this.
#![forbid(unsafe_code)]

mod doctor;
mod documents;
mod image;
mod machine;
mod refusals;
mod secrets;
mod tarball;
mod training;
