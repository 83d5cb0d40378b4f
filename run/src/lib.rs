//! Declarative configuration and launch of multimodal fine-tuning.
//!
//! ```text
//! text --parse--> Node --merge, --set--> Node --deserialize, validate--> Run --lower--> LaunchPlan
//!      --render--> Submission --submit--> JobHandle
//! ```
//!
//! Every arrow is a function and every box a plain value; effects come last. The program `neva-run` is a
//! thin shell round this library. Neither links a tensor library: ranks are `neva-rank` processes, or an
//! engine that the caller brings:
//!
//! ```no_run
//! # fn example(engine: impl neva_schemas::Engine + 'static) -> Result<(), neva_run::RunError> {
//! use neva_run::{RunOptions, run};
//! use neva_recipes::neva_tiny;
//!
//! let mut finetune = neva_tiny::finetune_recipe(neva_tiny::default_args());
//! finetune.trainer.max_steps = Some(5);
//! let report = run(&finetune, RunOptions::direct(engine))?;
//! println!("{} steps, in {}", report.steps, report.run_dir.display());
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod adapters;
mod checkpoint;
mod cli;
pub mod config;
mod environment;
mod error;
mod executor;
mod experiment;
mod folder;
mod job;
mod launch;
mod plan;
pub mod program;
mod resolve;
mod sweep;
mod workspace;

pub use cli::{cli_main, cli_main_with};
pub use error::RunError;
pub use executor::executor;
pub use experiment::{
    Change, Event, Experiment, ExperimentError, ExperimentFolder, ExperimentOptions, ExperimentRecord, ExperimentReport, GitState, Plugin,
    ResolvedExperiment, Row, Status, Store, TaskReport, TaskState, is_experiment, resolve_experiment,
};
pub use folder::create_run_folder;
pub use job::Retry;
pub use launch::{RunOptions, launch, run};
pub use plan::lower;
pub use resolve::{ResolveOptions, Resolved, load, resolve, resolve_with};
pub use sweep::{Point, Sweep};
pub use workspace::{WORKSPACE_FILE, Workspace};

/// An event loop for one thread: a launcher waits, and computes nothing.
fn runtime() -> Result<tokio::runtime::Runtime, RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|source| RunError::System {
        action: "start the launcher's runtime",
        source,
    })
}
