//! Gradients, clipping, the optimizer and its schedule.

mod fp8_bucket;
mod grad_buffer;
mod gradients;
mod optimizer;
mod param_gather;
mod partition;
mod rule;
mod schedule;
mod state;

pub use gradients::Gradients;
pub use optimizer::{Optimizer, OptimizerShard};
pub use partition::Partition;
pub use schedule::learning_rate;
