//! The engine through its public door: what ranks say to each other, what a layout may change, what a
//! checkpoint keeps, and what happens to input that is wrong.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod checkpoint;
mod comm;
mod config;
mod decoding;
mod determinism;
mod failures;
mod gloo;
mod layout_invariance;
mod model;
mod optimizer;
mod resume;
mod saving;
mod setting;
mod tensor_file;
mod weights;
