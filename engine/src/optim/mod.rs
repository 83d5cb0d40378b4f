//! Gradients, clipping, the optimizer and its schedule.

mod accumulator;
mod gather;
mod gradients;
mod optimizer;
mod partition;
mod rule;
mod schedule;

pub use gradients::Gradients;
pub use optimizer::{Optimizer, Piece};
pub use partition::Partition;
pub use schedule::learning_rate;
