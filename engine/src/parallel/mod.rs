//! Pipeline and context parallelism, which the model code does not depend on.

mod attention;
mod context;
mod pipeline;
mod ring;

pub use attention::ContextAttention;
pub use context::{batch_on_this_cp_rank, zigzag};
pub use pipeline::{Pipeline, SavedActivation, StageReport, StageWork};
