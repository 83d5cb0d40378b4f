//! Errors of container runtimes, with the runtime's own words.

use neva_schemas::{ExitClass, exit_class};

/// An error of a container runtime that a repetition does not mend. One that cannot be reached is
/// `ExecutorError::Connection` instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContainerError {
    /// The runtime refused the container.
    #[error("the container runtime refused the job: {words}")]
    Refused {
        /// Its words.
        words: String,
        /// What to type instead.
        help: Option<String>,
    },
    /// A folder to mount is missing. Docker would create it, empty.
    #[error("`executor.volumes` mounts {source_path}, which does not exist on this machine")]
    NoFolder {
        /// The folder.
        source_path: String,
    },
    /// The image is not on this machine and cannot be pulled.
    #[error("the image {image} is not on this machine and cannot be pulled: {words}")]
    NoImage {
        /// The image.
        image: String,
        /// Words of the runtime.
        words: String,
    },
    /// The runtime failed.
    #[error("the container runtime failed to {action}: {words}")]
    Failed {
        /// Failed action.
        action: &'static str,
        /// Its words.
        words: String,
    },
    /// The container did not take the values of `env_from`.
    #[error("the job did not read the values of `executor.env_from` within {seconds} s")]
    NoReader {
        /// Waiting time.
        seconds: u64,
    },
}

impl ContainerError {
    /// Returns the launcher's exit code for this error.
    pub fn exit_code(&self) -> ExitClass {
        match self {
            Self::Refused { .. } | Self::NoFolder { .. } | Self::NoImage { .. } => exit_class::INPUT,
            Self::Failed { .. } | Self::NoReader { .. } => exit_class::CLUSTER,
        }
    }

    /// Returns a suggested fix, if there is one.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Refused { help, .. } => help.clone(),
            Self::NoFolder { .. } => Some("create it, or correct the path".to_owned()),
            Self::NoImage { image, .. } => Some(format!(
                "pull or build it first (`docker pull {image}`, `make image`), or name another with `--set executor.container_image=...`"
            )),
            Self::NoReader { .. } => {
                Some("the image needs `timeout` and `cat`; logs/container.log in the job's folder may tell more".into())
            }
            Self::Failed { .. } => None,
        }
    }
}
