//! Declarative configuration and launch of multimodal fine-tuning.
//!
//! ```text
//! text --parse--> Node --merge, --set--> Node --deserialize, validate--> Run --lower--> LaunchPlan
//!      --render--> Submission --submit--> JobHandle
//! ```
//!
//! Every arrow is a function and every box a plain value; side effects come last. The program `neva-run` is a
//! thin wrapper around this library. Neither links a tensor library: ranks are `neva-rank` processes, or an
//! engine that the caller passes:
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
mod cli;
pub mod config;
mod environment;
mod error;
mod executor;
mod experiment;
mod experiment_error;
mod experiment_report;
mod folder;
mod home;
mod hub;
mod import;
mod job;
mod launch;
mod model_export;
mod plan;
mod preflight;
mod pretrained;
pub mod program;
mod rank_program;
mod resolve;
mod sweep;
mod workspace;

pub use cli::{cli_main, cli_main_with, cli_main_with_factories};
pub use error::RunError;
pub use executor::executor;
pub use experiment::{
    Change, Event, Experiment, ExperimentError, ExperimentFolder, ExperimentOptions, ExperimentRecord, ExperimentReport, GitState, Plugin,
    ResolvedExperiment, Row, Status, Store, TaskReport, TaskState, is_experiment, resolve_experiment,
};
pub use folder::create_run_folder;
pub use hub::HubError;
pub use import::{ImportError, ImportOptions, Imported, import_ckpt};
pub use job::Retry;
pub use launch::{RunOptions, launch, run};
pub use model_export::export_ckpt;
pub use plan::lower;
pub use pretrained::{Pretrained, pretrained};
pub use resolve::{ResolveOptions, Resolved, load, resolve, resolve_with};
pub use sweep::{Point, Sweep};
pub use workspace::{WORKSPACE_FILE, Workspace};

/// Runs `future` to its end on a single-threaded event loop. A blocked reader thread is not waited for.
fn block_on<F: Future>(future: F) -> Result<F::Output, RunError> {
    let runtime = runtime()?;
    let output = runtime.block_on(future);
    runtime.shutdown_background();
    Ok(output)
}

fn runtime() -> Result<tokio::runtime::Runtime, RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|source| RunError::System {
        action: "start the launcher's runtime",
        source,
    })
}
