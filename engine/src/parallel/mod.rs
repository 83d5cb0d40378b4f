//! Parallelism that the model does not see.

mod region;

pub(crate) use region::one;
pub use region::{copy_to_region, reduce_from_region};
