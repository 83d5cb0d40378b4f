//! Parallelism that the model does not see.

mod attention;
mod context;
mod pictures;
mod pipeline;
mod region;
mod ring;

pub use attention::ContextAttention;
pub use context::{context_part, zigzag};
pub use pictures::PictureShares;
pub use pipeline::{Kept, Pipeline, StageReport, StageWork};
pub use region::TensorRegion;
pub(crate) use region::one;
