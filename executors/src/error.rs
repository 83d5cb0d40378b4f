//! What an executor can fail with.

use std::{io, path::PathBuf};

use neva_schemas::{ExitClass, exit_class};

use crate::executor::JobHandle;

/// Why a job was not started, or cannot be asked after.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecutorError {
    /// The plan has more nodes than this executor reaches.
    #[error("the `{executor}` executor starts ranks on this machine only, but the run asks for {num_nodes} nodes")]
    SeveralNodes {
        /// The executor's name.
        executor: &'static str,
        /// Nodes of the plan.
        num_nodes: u32,
    },
    /// The plan has more ranks than one machine can take.
    #[error("{world_size} ranks are more than one machine can take (at most {most})")]
    TooManyRanks {
        /// Ranks of the plan.
        world_size: u32,
        /// Most ranks.
        most: u32,
    },
    /// The plan's ranks do not fill a mesh.
    #[error("the plan's {ranks} ranks do not fill its parallel sizes")]
    NoMesh {
        /// Ranks of the plan.
        ranks: u64,
    },
    /// A path that JSON and command lines cannot hold.
    #[error("{path:?} is not UTF-8")]
    NotUtf8 {
        /// The path.
        path: PathBuf,
    },
    /// The plan cannot be written as JSON.
    #[error("the plan cannot be written as JSON")]
    Plan(#[from] serde_json::Error),
    /// A file or folder of the job cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried: `read`, `write`, `create`, `lock`, `move`, `remove`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No port is free for the ranks to meet at.
    #[error("no free port on {address} for the ranks to meet at")]
    NoFreePort {
        /// The address.
        address: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A process did not start.
    #[error("cannot start {program}")]
    Start {
        /// The program.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// A script's program did not start.
    #[error("cannot start {program} in {}", folder.display())]
    StartScript {
        /// The program that was to read the script.
        program: String,
        /// The folder that it was to start in.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The folder already belongs to a job that runs.
    #[error("a job already runs in {}", dir.display())]
    AlreadyRunning {
        /// The folder.
        dir: PathBuf,
    },
    /// The handle is of another executor, or its job is gone.
    #[error("there is no job {job}")]
    UnknownJob {
        /// The handle.
        job: JobHandle,
    },
}

impl ExecutorError {
    /// The exit code that this error ends the launcher with.
    pub fn class(&self) -> ExitClass {
        match self {
            Self::SeveralNodes { .. } | Self::TooManyRanks { .. } | Self::NotUtf8 { .. } | Self::UnknownJob { .. } => exit_class::INPUT,
            Self::File { .. } | Self::NoFreePort { .. } | Self::Start { .. } | Self::StartScript { .. } | Self::AlreadyRunning { .. } => {
                exit_class::CLUSTER
            }
            Self::NoMesh { .. } | Self::Plan(_) => exit_class::BUG,
        }
    }

    /// What to type or do instead, where that can be said.
    pub fn help(&self) -> Option<String> {
        Some(match self {
            Self::SeveralNodes { .. } => "add `--set num_nodes=1`, or start one `neva-run --direct` per rank with torchrun".to_owned(),
            Self::TooManyRanks { .. } => "set `num_gpus_per_node` to the number of GPUs".to_owned(),
            Self::Start { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "build it with `cargo build --release`, or name it in NEVA_RANK".to_owned()
            }
            Self::StartScript { folder, .. } if !folder.is_dir() => "the folder is not there any more: make it again".to_owned(),
            Self::StartScript { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "`entrypoint` names the program that reads the script: install it, or name one that is in PATH".to_owned()
            }
            Self::File { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                "make room, or name another folder with `--set dir=...`".to_owned()
            }
            Self::File { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "name a folder that you may write to with `--set dir=...`".to_owned()
            }
            _ => return None,
        })
    }
}
