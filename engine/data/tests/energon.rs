//! Energon datasets: reading, mixing, encoding, preparing, and what is refused.

#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
#![expect(clippy::single_range_in_vec_init, reason = "a range is a shard, and some datasets have one")]

mod set;

mod bad_input;
mod mixtures;
mod preparing;
mod samples;
