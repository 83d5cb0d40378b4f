//! Experiments: tasks, what must have ended before each, and a store that knows what became of them.
//!
//! ```text
//! text --source--> Experiment --prepare--> ExperimentRecord --runner--> events.jsonl --fold--> Status
//! ```
//!
//! The launcher is one event loop and holds nothing that it does not write down first to last: a later process reads
//! the state of every task from the folder, and a launcher that died is replaced by another. Tasks get their
//! configuration as files; nothing of the launcher's program is run again in them.

mod builder;
mod compare;
mod control;
mod detach;
mod error;
mod event;
mod folder;
mod gate;
mod git;
mod index;
mod journal;
mod launcher;
mod lower;
mod plugin;
mod prepare;
mod programs;
mod record;
mod report;
mod rerun;
mod runner;
mod source;
mod store;

pub use builder::{Experiment, ExperimentOptions};
pub(crate) use compare::{Comparison, compare};
pub(crate) use detach::supervise;
pub use error::ExperimentError;
pub use event::{Change, Event};
pub use folder::{ExperimentFolder, Status};
pub use git::GitState;
pub use index::Row;
pub use plugin::Plugin;
pub use record::ExperimentRecord;
pub use report::{ExperimentReport, TaskReport, TaskState};
pub(crate) use source::sweep_experiment;
pub use source::{ResolvedExperiment, is_experiment, resolve_experiment};
pub use store::Store;
