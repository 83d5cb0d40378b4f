//! What parameters are that no checkpoint overrides.

use super::adapter::Adapter;
use super::cache::{ModelCache, resolve_restore};
use super::checksum::Checksum;
use super::folder::CheckpointFolder;
use super::hugging_face::hugging_face_files;
use super::state::BaseReference;
use crate::error::{EngineError, Result};
use neva_schemas::{Finetune, Problem};
use std::path::{Path, PathBuf};

/// Where parameters come from that no checkpoint overrides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// A Hugging Face folder.
    HuggingFace(PathBuf),
    /// A checkpoint of ours: weights only.
    Checkpoint(PathBuf),
    /// Fresh values.
    Seed(u64),
}

impl Base {
    /// The base that a run names: through `restore_config`, or else through the adapter that it starts from,
    /// which knows its own.
    ///
    /// # Errors
    /// The run names a folder that is not there.
    pub fn of(finetune: &Finetune, cache: &ModelCache) -> Result<Self> {
        match (&finetune.resume.restore_config, &finetune.resume.adapter_path) {
            (Some(restore), _) if restore.load_model_state => {
                let path = resolve_restore(&restore.path, cache)?;
                Ok(if CheckpointFolder::is_one(&path) {
                    Self::Checkpoint(path)
                } else {
                    Self::HuggingFace(path)
                })
            }
            (None, Some(adapter)) => match Adapter::open(adapter)? {
                Adapter::Checkpoint(checkpoint) => Self::of(&checkpoint.run.finetune, cache),
                Adapter::Peft(folder) => {
                    let base = folder
                        .base
                        .map_or(String::new(), |base| format!(" (`base_model_name_or_path` is {base:?})"));
                    let message = format!(
                        "the adapter in {} does not hold the base that it goes with{base}",
                        folder.path.display()
                    );
                    Err(EngineError::Run(vec![
                        Problem::error("finetune.resume.restore_config", message)
                            .help("name a folder with the weights of its base: --set finetune.resume.restore_config.path=DIR"),
                    ]))
                }
            },
            _ => Ok(Self::Seed(finetune.trainer.seed)),
        }
    }

    /// Its folder, where it is one.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Self::HuggingFace(path) | Self::Checkpoint(path) => Some(path),
            Self::Seed(_) => None,
        }
    }

    /// What a checkpoint says of it. Reads a Hugging Face folder's weights as a whole.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn reference(&self) -> Result<BaseReference> {
        Ok(match self {
            Self::Seed(seed) => BaseReference::Seed { seed: *seed },
            Self::Checkpoint(path) => BaseReference::Checkpoint {
                path: path.clone(),
                blake3: Checksum::of(&path.join("checkpoint.json"))?.blake3,
            },
            Self::HuggingFace(path) => {
                let mut hasher = blake3::Hasher::new();
                for file in hugging_face_files(path)? {
                    hasher.update(file.file_name().unwrap_or_default().as_encoded_bytes());
                    hasher.update(Checksum::of(&file)?.blake3.as_bytes());
                }
                BaseReference::HuggingFace {
                    path: path.clone(),
                    blake3: hasher.finalize().to_hex().to_string(),
                }
            }
        })
    }

    /// Checks that `checkpoint` was trained on this base: an adapter on other weights is worth nothing.
    ///
    /// # Errors
    /// It was trained on another one.
    pub fn check(own: &BaseReference, checkpoint: &CheckpointFolder, path: &str) -> Result<()> {
        let same = match (own, &checkpoint.state.base) {
            (BaseReference::Seed { seed: a }, BaseReference::Seed { seed: b }) => a == b,
            (BaseReference::HuggingFace { blake3: a, .. }, BaseReference::HuggingFace { blake3: b, .. })
            | (BaseReference::Checkpoint { blake3: a, .. }, BaseReference::Checkpoint { blake3: b, .. }) => a == b,
            _ => false,
        };
        if same {
            return Ok(());
        }
        let (theirs, ours) = (&checkpoint.state.base, own);
        Err(EngineError::Run(vec![
            Problem::error(
                path,
                format!("{} was trained on {theirs}, this run starts from {ours}", checkpoint.path.display()),
            )
            .help("name the base that it was trained on: --set finetune.resume.restore_config.path=DIR"),
        ]))
    }
}
