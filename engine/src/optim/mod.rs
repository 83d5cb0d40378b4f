//! Gradients, clipping, the optimizer and its schedule.

mod adamw;
mod gradients;
mod schedule;

pub use adamw::{AdamW, AdamWState};
pub use gradients::Gradients;
pub use schedule::learning_rate;
