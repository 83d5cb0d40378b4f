//! Errors of imports.

use std::{
    io,
    path::{Path, PathBuf},
};

use neva_schemas::{ExitClass, env, exit_class};

use neva_weights::WeightsError;

use crate::hub::HubError;

/// Maximum number of problems in a message; the others are counted.
const SHOWN: usize = 8;

/// Error of an import.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The model cannot be downloaded.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// A file of weights is damaged, not supported, or cannot be read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// There is no such folder or file.
    #[error("there is no folder or file {}", path.display())]
    NoSource {
        /// The folder.
        path: PathBuf,
        /// Address of a model of the hub that may be meant.
        meant: Option<String>,
    },
    /// The folder has no name for the model.
    #[error("{} has no name for the model", path.display())]
    NoName {
        /// The folder.
        path: PathBuf,
    },
    /// The folder has no complete model.
    #[error("{}: {}", path.display(), shown(problems))]
    Content {
        /// The folder, or a file of it.
        path: PathBuf,
        /// Its problems.
        problems: Vec<String>,
        /// Advice.
        help: Option<String>,
    },
    /// The target is another model.
    #[error("{} already exists, with other content", path.display())]
    Exists {
        /// The target.
        path: PathBuf,
    },
    /// The target is a folder with something else than a model, which would be lost.
    #[error("{} exists, and is not the folder of a model: it is not replaced", path.display())]
    NoModel {
        /// The target.
        path: PathBuf,
    },
    /// The target is a file.
    #[error("{} is a file, and a model is a folder", path.display())]
    NoFolder {
        /// The target.
        path: PathBuf,
    },
    /// Another process imports to the same target.
    #[error("another process is importing to {}", path.display())]
    Locked {
        /// The target.
        path: PathBuf,
    },
    /// A file or folder cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// Attempted action.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
}

impl ImportError {
    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        Self::Io { action, path, source }
    }

    pub(super) fn content(path: &Path, problem: impl Into<String>) -> Self {
        Self::Content {
            path: path.to_owned(),
            problems: vec![problem.into()],
            help: None,
        }
    }

    /// Returns the exit code of this error.
    pub fn exit_code(&self) -> ExitClass {
        match self {
            Self::Hub(error) => error.exit_code(),
            Self::Weights(WeightsError::Io { .. }) => exit_class::CLUSTER,
            Self::Weights(_) | Self::NoSource { .. } | Self::NoName { .. } | Self::Content { .. } => exit_class::INPUT,
            Self::Exists { .. } | Self::NoModel { .. } | Self::NoFolder { .. } => exit_class::INPUT,
            Self::Locked { .. } | Self::Io { .. } => exit_class::CLUSTER,
        }
    }

    /// Returns what to type or do instead.
    pub fn help(&self) -> Option<String> {
        Some(match self {
            Self::Hub(error) => return error.help(),
            Self::Content { help, .. } => return help.clone(),
            Self::Weights(error @ WeightsError::Content { .. }) => return error.help().map(str::to_owned),
            Self::Weights(WeightsError::Io { action: "read", .. }) => return None,
            Self::NoSource { meant: Some(meant), .. } => format!("did you mean {meant}, a model of the hub?"),
            Self::NoSource { meant: None, .. } => "name a folder with config.json and weights, a GGUF file, or hf://ORG/NAME".to_owned(),
            Self::NoName { .. } | Self::NoModel { .. } | Self::NoFolder { .. } | Self::Locked { .. } => {
                "name another folder: --output DIR".to_owned()
            }
            Self::Exists { .. } => "add `--overwrite` to replace it, or name another folder: --output DIR".to_owned(),
            Self::Weights(WeightsError::Io { source, .. }) | Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                format!("free space, or name another folder with --output or in {}", env::NEMO_MODELS_CACHE)
            }
            Self::Io { action: "read", .. } => return None,
            _ => format!(
                "name a folder that you may write to with --output, or another cache in {}",
                env::NEMO_MODELS_CACHE
            ),
        })
    }
}

fn shown(problems: &[String]) -> String {
    let mut shown: Vec<_> = problems.iter().take(SHOWN).cloned().collect();
    if problems.len() > SHOWN {
        shown.push(format!("and {} more", problems.len() - SHOWN));
    }
    shown.join("; ")
}
