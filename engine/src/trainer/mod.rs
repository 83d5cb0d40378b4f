//! Training: one optimizer step as a value ([`Trainer::step`]), and the run around it ([`fit`]).

mod batch;
mod batches;
mod callback;
mod dataset;
mod fit;
mod loaded;
mod memory;
mod passes;
mod records;
mod registry;
mod spike;
mod start;
mod step;
mod stop;

pub use batch::to_device;
pub use batches::{batch_slice, merge_options};
pub use callback::{Callback, Flow, RunView};
pub(crate) use dataset::process_mode;
pub use dataset::{DataModule, RunData};
pub use fit::{Progress, Surroundings, fit};
pub use loaded::LoadedModel;
pub use registry::{Registry, run_data};
pub use step::{Evaluation, Microbatch, StepReport, Trainer};
pub use stop::StopRequest;
