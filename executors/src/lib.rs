//! Places where a launch plan runs.
//!
//! An [`Executor`] turns a plan into a [`Submission`] (pure: it can be printed and diffed), submits it, and
//! answers for the job's state and logs from the [`JobHandle`] alone. It holds no mutable state, prints
//! nothing and decides nothing: whoever watches a job asks, and acts on the answers.
#![forbid(unsafe_code)]

mod error;
mod executor;
mod exit;
mod failure;
mod folder_lock;
pub mod local;
mod submission;
mod topology;

pub use error::ExecutorError;
pub use executor::{BoxFuture, Executor, JobHandle, JobState, LogChunk};
pub use exit::RankExit;
pub use failure::JobFailure;
pub use folder_lock::FolderLock;
pub use local::LocalExecutor;
pub use submission::{JobKind, Process, Submission, script_argv, train_argv};
pub use topology::{Coordinates, Topology};
