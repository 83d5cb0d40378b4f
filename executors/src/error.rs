//! Errors of executors.

use std::{io, path::PathBuf};

use neva_schemas::{ExitClass, exit_class};

use crate::{
    batch_error::BatchError, container_error::ContainerError, job::JobHandle, kubernetes_error::KubernetesError,
    packager_error::PackagerError, tunnel_error::TunnelError,
};

/// An error of an executor: a job was not started, or cannot be queried.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecutorError {
    /// The plan has more nodes than this executor supports.
    #[error("the `{executor}` executor starts ranks on this machine only, but the run needs {num_nodes} nodes")]
    SeveralNodes {
        /// The executor's name.
        executor: &'static str,
        /// Nodes of the plan.
        num_nodes: u32,
    },
    /// The plan has more ranks than one machine can run.
    #[error("{world_size} ranks are more than one machine can run (at most {max})")]
    TooManyRanks {
        /// Ranks of the plan.
        world_size: u32,
        /// Maximum number of ranks.
        max: u32,
    },
    /// The plan's ranks do not match its parallel sizes.
    #[error("the plan's {ranks} ranks do not match its parallel sizes")]
    NoMesh {
        /// Ranks of the plan.
        ranks: u64,
    },
    /// The plan does not fit the executor's settings.
    #[error("{message}")]
    Refused {
        /// What does not fit.
        message: String,
        /// Suggested fix.
        help: String,
    },
    /// A path is not UTF-8, as JSON and command lines need.
    #[error("{path:?} is not UTF-8")]
    NotUtf8 {
        /// The path.
        path: PathBuf,
    },
    /// The plan cannot be written as JSON.
    #[error("the plan cannot be written as JSON")]
    Plan(#[from] serde_json::Error),
    /// The objects of a job cannot be written as YAML.
    #[error("the objects of the job cannot be written as YAML: {reason}")]
    Manifest {
        /// Error of the serializer.
        reason: String,
    },
    /// A file or folder of the job cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// Failed action: `read`, `write`, `create`, `lock`, `move`, `remove`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// Arguments and environment are longer than the system allows.
    #[error(
        "a process cannot be started: its environment and arguments are too long (the longest variable is {variable}, {bytes} \
         bytes; the arguments are {arguments})"
    )]
    TooLong {
        /// The longest variable.
        variable: String,
        /// Length of its value in bytes.
        bytes: usize,
        /// Length of all arguments in bytes.
        arguments: usize,
    },
    /// No port is free for the rendezvous of the ranks.
    #[error("no free port on {address} for the rendezvous of the ranks")]
    NoFreePort {
        /// The address.
        address: &'static str,
        /// Error of the system.
        source: io::Error,
    },
    /// The pipe for the ranks could not be created.
    #[error("cannot create a pipe for the ranks")]
    Pipe {
        /// Error of the system.
        source: io::Error,
    },
    /// A process did not start.
    #[error("cannot start {program}")]
    Start {
        /// The program.
        program: String,
        /// Error of the system.
        source: io::Error,
    },
    /// A script's program did not start.
    #[error("cannot start {program} in {}", folder.display())]
    StartScript {
        /// Interpreter of the script.
        program: String,
        /// Working directory.
        folder: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// A job is already running in the folder.
    #[error("a job is already running in {}", dir.display())]
    AlreadyRunning {
        /// The folder.
        dir: PathBuf,
    },
    /// The host or API server cannot be reached at the moment. A watch retries.
    #[error("no connection to {place}")]
    Connection {
        /// Host or API server.
        place: String,
        /// The cause.
        source: io::Error,
    },
    /// The machine that submits jobs cannot be used.
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    /// The batch system refused a job, or cannot be used.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The container runtime refused a job, or failed.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// Kubernetes refused a request, or cannot be used.
    #[error(transparent)]
    Kubernetes(#[from] KubernetesError),
    /// The code of a run cannot be packed or unpacked.
    #[error(transparent)]
    Packager(#[from] PackagerError),
    /// The handle belongs to another executor, or its job does not exist.
    #[error("there is no job {job}")]
    UnknownJob {
        /// The handle.
        job: JobHandle,
    },
}

impl ExecutorError {
    /// Returns true if the host or API server could not be reached, so that a retry may succeed.
    pub fn is_connection_lost(&self) -> bool {
        matches!(self, Self::Connection { .. })
    }

    /// Returns the error and its cause on one line.
    pub fn reason(&self) -> String {
        match std::error::Error::source(self) {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
    }

    /// Returns the same error for another job of one query.
    pub(crate) fn repeated(&self) -> Self {
        match self {
            Self::Connection { place, source } => Self::Connection {
                place: place.clone(),
                source: io::Error::new(source.kind(), source.to_string()),
            },
            other => BatchError::Query { reason: other.reason() }.into(),
        }
    }

    /// Returns the launcher's exit code for this error.
    pub fn exit_code(&self) -> ExitClass {
        match self {
            Self::SeveralNodes { .. }
            | Self::TooManyRanks { .. }
            | Self::Refused { .. }
            | Self::NotUtf8 { .. }
            | Self::TooLong { .. }
            | Self::UnknownJob { .. } => exit_class::INPUT,
            Self::File { .. }
            | Self::NoFreePort { .. }
            | Self::Pipe { .. }
            | Self::Start { .. }
            | Self::StartScript { .. }
            | Self::AlreadyRunning { .. }
            | Self::Connection { .. } => exit_class::CLUSTER,
            Self::NoMesh { .. } | Self::Plan(_) | Self::Manifest { .. } => exit_class::BUG,
            Self::Tunnel(error) => error.exit_code(),
            Self::Batch(error) => error.exit_code(),
            Self::Container(error) => error.exit_code(),
            Self::Kubernetes(error) => error.exit_code(),
            Self::Packager(error) => error.exit_code(),
        }
    }

    /// Returns a suggested fix, if there is one.
    pub fn help(&self) -> Option<String> {
        Some(match self {
            Self::SeveralNodes { .. } => "add `--set num_nodes=1`, or start one `neva-run --direct` per rank with torchrun".to_owned(),
            Self::Refused { help, .. } => help.clone(),
            Self::TooManyRanks { .. } => "set `num_gpus_per_node` to the number of GPUs".to_owned(),
            Self::TooLong { variable, .. } => format!("shorten {variable}, or move it to a file that the run reads"),
            Self::Start { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "build it with `cargo build --release`, or set NEVA_RANK to its path".to_owned()
            }
            Self::StartScript { folder, .. } if !folder.is_dir() => "the folder no longer exists: create it again".to_owned(),
            Self::StartScript { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "install the program in `entrypoint`, or set `entrypoint` to one that is in PATH".to_owned()
            }
            Self::File { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                "free disk space, or name another folder with `--set dir=...`".to_owned()
            }
            Self::File { source, .. } if matches!(source.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => {
                "name a writable folder with `--set dir=...`".to_owned()
            }
            Self::Connection { place, .. } if place.starts_with("the Docker API") => {
                "start Docker or Podman (`systemctl start docker`, `systemctl --user start podman.socket`), or name its socket with \
                 `--set executor.docker_host=unix:///PATH`"
                    .to_owned()
            }
            Self::Tunnel(error) => return error.help(),
            Self::Batch(error) => return error.help(),
            Self::Container(error) => return error.help(),
            Self::Kubernetes(error) => return error.help(),
            Self::Packager(error) => return error.help(),
            _ => return None,
        })
    }
}
