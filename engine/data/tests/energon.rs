//! Energon datasets: reading, mixing, encoding, preparing, and what is refused.

#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
#![expect(clippy::single_range_in_vec_init, reason = "a range is a shard, and some datasets have one")]

#[path = "energon/set.rs"]
mod set;

#[path = "energon/bad_input.rs"]
mod bad_input;
#[path = "energon/mixtures.rs"]
mod mixtures;
#[path = "energon/preparing.rs"]
mod preparing;
#[path = "energon/samples.rs"]
mod samples;
