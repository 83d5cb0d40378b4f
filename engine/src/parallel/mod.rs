//! Parallelism that the model does not see.

mod pipeline;
mod region;

pub use pipeline::{Kept, Pipeline, StageReport, StageWork};
pub use region::TensorRegion;
pub(crate) use region::one;
