//! Errors of batch systems, with the system's own words.

use std::path::PathBuf;

use neva_schemas::{ExitClass, exit_class};

/// An error of a batch system that a repetition does not mend. One that cannot be reached is
/// `ExecutorError::Connection` instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// The batch system refused the job.
    #[error("{program} refused the job: {words}")]
    Refused {
        /// The program that submits jobs.
        program: String,
        /// Its words.
        words: String,
        /// What to type instead.
        help: Option<String>,
        /// True if the settings of the executor are wrong.
        is_input: bool,
    },
    /// A program of the batch system is not installed there.
    #[error("there is no `{program}` on {place}: {words}")]
    NoProgram {
        /// The machine.
        place: String,
        /// The program.
        program: String,
        /// Words of the shell or the system.
        words: String,
    },
    /// A program of the batch system failed.
    #[error("{program} on {place} failed with {end}: {words}")]
    Failed {
        /// The machine.
        place: String,
        /// The program.
        program: String,
        /// How it ended.
        end: String,
        /// Its words.
        words: String,
    },
    /// A program of the batch system printed something else than expected.
    #[error("{program} on {place} printed {text:?}, which is not {expected}")]
    Output {
        /// The machine.
        place: String,
        /// The program.
        program: String,
        /// The output.
        text: String,
        /// What was expected.
        expected: &'static str,
    },
    /// A query for several jobs failed.
    #[error("{reason}")]
    Query {
        /// The error.
        reason: String,
    },
    /// A folder of a job has a name that cannot be passed to the batch system.
    #[error("the job's folder {} cannot be used: its name holds {what}", dir.display())]
    FolderName {
        /// The folder.
        dir: PathBuf,
        /// What it holds.
        what: &'static str,
    },
}

impl BatchError {
    /// Returns the launcher's exit code for this error.
    pub fn exit_code(&self) -> ExitClass {
        match self {
            Self::Refused { is_input: true, .. } | Self::FolderName { .. } => exit_class::INPUT,
            Self::Refused { .. } | Self::NoProgram { .. } | Self::Failed { .. } | Self::Output { .. } | Self::Query { .. } => {
                exit_class::CLUSTER
            }
        }
    }

    /// Returns a suggested fix, if there is one.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Refused { help, .. } => help.clone(),
            Self::NoProgram { place, .. } if place == "this machine" => Some(
                "run this on a login node of the cluster, or name one with `--set executor.tunnel={_target_: run.SSHTunnel, ...}`"
                    .to_owned(),
            ),
            Self::NoProgram { .. } => {
                Some("name a login node of the cluster, or load its module with the tunnel's `pre_command`: `module load slurm`".to_owned())
            }
            Self::FolderName { .. } => Some("name another folder with `--set dir=...`".to_owned()),
            Self::Failed { .. } | Self::Output { .. } | Self::Query { .. } => None,
        }
    }
}
