//! The engine through its public door: what ranks say to each other, what a layout may change, what a
//! checkpoint keeps, and what happens to input that is wrong.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod comm;
mod determinism;
mod gloo;
mod layout_invariance;
mod setting;
