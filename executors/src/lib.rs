//! Executors, which run launch plans.
//!
//! An [`Executor`] turns a plan into a [`Submission`] (pure: it can be printed and diffed), submits it, and reports the
//! job's events, logs and results from the [`JobHandle`] alone. It has no mutable state, prints nothing and makes no
//! decisions: the caller that watches a job acts on the events.
#![forbid(unsafe_code)]

mod background;
mod batch_error;
pub mod container;
mod container_error;
mod error;
mod event;
mod executor;
mod exit;
mod failure;
mod folder_lock;
mod job;
mod job_files;
pub mod kubernetes;
mod kubernetes_error;
mod loader;
pub mod local;
pub mod packager;
mod packager_error;
mod poll;
mod results;
mod run_folder;
pub mod slurm;
mod submission;
mod task_set;
mod topology;
pub mod tunnel;
mod tunnel_error;
mod work;

pub use batch_error::BatchError;
pub use container::DockerExecutor;
pub use container_error::ContainerError;
pub use error::ExecutorError;
pub use event::{JobEnd, JobEvent, JobResults, JobStatus, WatchFrom};
pub use executor::{BoxFuture, Executor, JobEvents, LogChunk};
pub use exit::RankExit;
pub use failure::JobFailure;
pub use folder_lock::FolderLock;
pub use job::{JobHandle, JobState};
pub use kubernetes::KubernetesExecutor;
pub use kubernetes_error::KubernetesError;
pub use loader::LoaderProblem;
pub use local::LocalExecutor;
pub use packager_error::PackagerError;
pub use poll::{PollInterval, poll};
pub use run_folder::create_run_folder;
pub use slurm::SlurmExecutor;
pub use submission::{BatchScript, BatchTask, JobKind, Manifests, Payload, Process, Processes, Submission, script_argv, train_argv};
pub use task_set::{TaskSet, TaskSetKind};
pub use topology::{Coordinates, Topology};
pub use tunnel_error::TunnelError;
pub use work::Work;
