//! Errors of downloads.

use std::{io, path::PathBuf};

use neva_layout::HubAddressError;
use neva_schemas::{ExitClass, env, exit_class};

/// Error of a download. No variant contains a token or a redirect's address, which is signed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The address is invalid.
    #[error(transparent)]
    Address(#[from] HubAddressError),
    /// A variable of the environment has an invalid value.
    #[error("{variable} {reason}")]
    Variable {
        /// Name of the variable.
        variable: &'static str,
        /// Problem of the value, without the value.
        reason: &'static str,
    },
    /// Requests are forbidden, and the cache lacks a file.
    #[error("{address} is not in {}{}, and HF_HUB_OFFLINE forbids its download", cache.display(),
        file.as_ref().map_or_else(String::new, |file| format!(" completely ({file} is missing)")))]
    Offline {
        /// The model.
        address: String,
        /// The first missing file, if the cache has others.
        file: Option<String>,
        /// The cache.
        cache: PathBuf,
    },
    /// There is no such model, or no such revision of it.
    #[error("{url}: there is no {what} {address}")]
    NotFound {
        /// The requested address.
        url: String,
        /// The model.
        address: String,
        /// `model` or `revision`.
        what: &'static str,
    },
    /// The model needs a token, or another one.
    #[error("{url}: the server refuses {address} ({status}){}", if *gated { ", which is gated" } else { "" })]
    Denied {
        /// The requested address.
        url: String,
        /// The model.
        address: String,
        /// Status of the reply.
        status: u16,
        /// The licence of the model must be accepted first.
        gated: bool,
        /// The request had a token.
        had_token: bool,
    },
    /// The server rejected the request.
    #[error("{url}: the server replied {status}")]
    Refused {
        /// The requested address.
        url: String,
        /// Status of the reply.
        status: u16,
    },
    /// The reply is not that of a hub.
    #[error("{url}: the reply is not that of a hub: {reason}")]
    Answer {
        /// The requested address.
        url: String,
        /// Problem of the reply.
        reason: String,
    },
    /// Every try failed: the server did not reply, or the connection was lost.
    #[error("{url}: {reason} ({tries} tries)")]
    Down {
        /// The requested address.
        url: String,
        /// The last failure.
        reason: String,
        /// Number of tries without progress.
        tries: u32,
    },
    /// A file does not have the hub's hash.
    #[error("{url}: the file has the hash {found}, the hub says {expected}; it was removed")]
    Hash {
        /// The address of the file.
        url: String,
        /// Hash in the hub.
        expected: String,
        /// Hash of the file.
        found: String,
    },
    /// The repository lacks a required file.
    #[error("{address} has no {file}{}", if found.is_empty() { String::new() } else { format!("; it has {}", found.join(", ")) })]
    Lacks {
        /// The model.
        address: String,
        /// The missing file.
        file: String,
        /// Files of other formats with the same purpose.
        found: Vec<String>,
    },
    /// Another process holds the lock of a file and makes no progress.
    #[error("another process holds the lock {} and has written nothing for {waited_s} s", path.display())]
    Locked {
        /// The lock.
        path: PathBuf,
        /// Seconds of waiting.
        waited_s: u64,
    },
    /// The cache cannot be read or written.
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

impl HubError {
    pub(super) fn io(action: &'static str, path: &std::path::Path, source: io::Error) -> Self {
        let path = path.to_owned();
        Self::Io { action, path, source }
    }

    /// Returns the exit code of this error.
    pub fn exit_code(&self) -> ExitClass {
        match self {
            Self::Address(_)
            | Self::Variable { .. }
            | Self::Offline { .. }
            | Self::NotFound { .. }
            | Self::Denied { .. }
            | Self::Lacks { .. } => exit_class::INPUT,
            Self::Refused { .. } | Self::Answer { .. } | Self::Down { .. } | Self::Hash { .. } | Self::Locked { .. } | Self::Io { .. } => {
                exit_class::CLUSTER
            }
        }
    }

    /// Returns what to type or do instead.
    pub fn help(&self) -> Option<String> {
        Some(match self {
            Self::Address(_) => return None,
            Self::Variable { variable, .. } => format!("correct {variable}, or unset it"),
            Self::Offline { address, .. } => format!(
                "unset {} and {}, or download it on a machine with a network: neva-run import {address}",
                env::HF_HUB_OFFLINE,
                env::TRANSFORMERS_OFFLINE
            ),
            Self::NotFound { what: "revision", .. } => {
                "a revision is a branch, a tag or a commit of the model; the default is main".to_owned()
            }
            Self::NotFound { .. } => format!(
                "check the spelling; a private model needs {}, and another server is named by {}",
                env::HF_TOKEN,
                env::HF_ENDPOINT
            ),
            Self::Denied { gated, had_token, .. } => {
                let token = if *had_token {
                    format!("use a token in {} that may read it", env::HF_TOKEN)
                } else {
                    format!("set {} to a token that may read it", env::HF_TOKEN)
                };
                if *gated {
                    format!("accept the model's licence on its page, and {token}")
                } else {
                    format!("check the spelling; if the model is private, {token}")
                }
            }
            Self::Refused { .. } | Self::Answer { .. } => format!("check {}, which names the server", env::HF_ENDPOINT),
            Self::Down { .. } => "run the command again: the download is resumed".to_owned(),
            Self::Hash { .. } => "run the command again; if the error stays, a proxy or a mirror changes files".to_owned(),
            Self::Lacks { found, .. } if found.is_empty() => "name a model of transformers: config.json and *.safetensors".to_owned(),
            Self::Lacks { address, found, .. } if found.iter().any(|name| name.ends_with(".bin")) => {
                format!("a run reads safetensors only: convert the pickles first, without executing them: neva-run import {address}")
            }
            Self::Lacks { .. } => "of several GGUF files, download the one that you want, and import it: neva-run import FILE.gguf; \
                 other formats are not read"
                .to_owned(),
            Self::Locked { path, .. } => format!("end that process; if there is none, remove {}", path.display()),
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                format!("free space, or name another folder in {}", env::HF_HUB_CACHE)
            }
            Self::Io { .. } => format!("name a folder that you may write to in {}", env::HF_HUB_CACHE),
        })
    }
}
