//! Parallelism that the model does not see.

mod region;

pub use region::TensorRegion;
pub(crate) use region::one;
