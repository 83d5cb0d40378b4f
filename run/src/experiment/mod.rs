//! Experiments: tasks with dependencies, and a store of their state.
//!
//! ```text
//! text --source--> Experiment --prepare--> ExperimentRecord --runner--> events.jsonl --fold--> Status
//! ```
//!
//! The launcher is one event loop that persists every state change before acting on it. Any later process reads the
//! state of every task from the folder, and another launcher can replace one that died. Tasks get their configuration
//! as files; they do not execute the launcher's program again.

mod builder;
mod compare;
mod control;
mod detach;
mod event;
mod folder;

mod git;
mod index;
mod journal;
mod launcher;
mod lower;
mod lower_set;
mod machine;
mod options;
mod plugin;
mod prepare;
mod programs;
mod record;
mod rerun;
mod resources;
mod runner;
mod source;
mod store;
mod task_graph;
mod task_sets;

use crate::{experiment_error as error, experiment_report as report};

pub use builder::Experiment;
pub(crate) use compare::{Comparison, compare};
pub(crate) use detach::supervise;
pub use error::ExperimentError;
pub use event::{Change, Event};
pub use folder::{ExperimentFolder, Status};
pub use git::GitState;
pub use index::Row;
pub use options::ExperimentOptions;
pub use plugin::Plugin;
pub use record::ExperimentRecord;
pub use report::{ExperimentReport, TaskReport, TaskState};
pub(crate) use source::recipe_paths;
pub use source::{ResolvedExperiment, is_experiment, resolve_experiment};
pub(crate) use source::{resolve_experiment_with, sweep_experiment};
pub use store::Store;
