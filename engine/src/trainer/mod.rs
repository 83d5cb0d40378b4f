//! Training: one optimizer step as a value ([`Trainer::step`]), and the run around it ([`fit`]).

mod batch;
mod batches;
mod callback;
mod context;
mod dataset;
mod evaluation;
mod fit;
mod labels;
mod loaded;
mod memory;
mod microbatch;
mod passes;
mod records;
mod registry;
mod row_norms;
mod saves;
mod spike;
mod start;
mod step;
mod step_metrics;
mod stop;
mod train_step;
mod validation;

pub use batch::to_device;
pub use batches::{batch_sampler, merge_options};
pub use callback::{Callback, Flow, RunView};
pub use context::{Progress, RunContext};
pub use dataset::{DataModule, RunData};
pub use evaluation::Evaluation;
pub use fit::fit;
pub use loaded::LoadedModel;
pub use microbatch::Microbatch;
pub use registry::{Registry, run_data};
pub use step::{StepReport, Trainer};
pub use stop::StopRequest;
