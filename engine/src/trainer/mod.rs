//! Training: one optimizer step as a value ([`Trainer::step`]), and the loop around it ([`fit`]).

mod batch;
mod dataset;
mod fit;
mod loaded;
mod metrics;
mod step;

pub use batch::to_device;
pub(crate) use dataset::process_mode;
pub use dataset::{TrainData, train_data};
pub use fit::{Progress, fit};
pub use loaded::LoadedModel;
pub use metrics::{Metrics, MetricsFile};
pub use step::{Microbatch, StepReport, Trainer};
