//! Gradients, clipping, the optimizer and its schedule.

mod fp8_bucket;
mod grad_bucket;
mod grad_buffer;
mod gradients;
mod loss_scaler;
mod master;
mod optimizer;
mod param_gather;
mod partition;
mod rule;
mod schedule;
mod state;

pub use gradients::Gradients;
pub use loss_scaler::{LossScaleState, LossScaler};
pub use master::MasterWeights;
pub use optimizer::{Optimizer, OptimizerShard};
pub use partition::Partition;
pub use schedule::learning_rate;
