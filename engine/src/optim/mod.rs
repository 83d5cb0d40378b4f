//! Gradients, clipping, the optimizer and its schedule.

mod gradients;
mod optimizer;
mod rule;
mod schedule;

pub use gradients::Gradients;
pub use optimizer::{Optimizer, Piece};
pub use schedule::learning_rate;
