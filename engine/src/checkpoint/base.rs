//! Source of the base weights.

use super::adapter::Adapter;
use super::cache::{resolve_model, resolve_restore};
use super::checksum::Checksum;
use super::folder::CheckpointFolder;
use super::hugging_face::hugging_face_files;
use super::state::BaseReference;
use crate::error::{EngineError, Result};
use neva_layout::{ModelCache, Part, adapter_as_base};
use neva_schemas::Finetune;
use std::path::{Path, PathBuf};

/// Source of the parameters that no checkpoint overrides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// A Hugging Face folder.
    HuggingFace(PathBuf),
    /// A checkpoint of this program, weights only.
    Checkpoint(PathBuf),
    /// Fresh values.
    Seed(u64),
    /// Separate folders for some parts of the model.
    Parts(Box<PartBases>),
    /// A checkpoint of this program whose own base is no longer where its run found it.
    Rebased {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// Its own base.
        base: Box<Self>,
    },
}

/// Sources of the parts of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartBases {
    /// The language model, if it has its own source.
    pub language_model: Option<Base>,
    /// The vision encoder, if it has its own source.
    pub vision_model: Option<Base>,
    /// The projector, if it has its own source.
    pub vision_projection: Option<Base>,
    /// All other parts.
    pub rest: Base,
}

impl PartBases {
    /// Returns the own source of `part`, if it has one.
    pub fn of(&self, part: Part) -> Option<&Base> {
        match part {
            Part::Language => self.language_model.as_ref(),
            Part::Vision => self.vision_model.as_ref(),
            Part::Projection => self.vision_projection.as_ref(),
            Part::Adapter => None,
        }
    }

    /// Resolves the sources that `finetune.model` names.
    fn open(finetune: &Finetune, cache: &ModelCache, rest: Base) -> Result<Self> {
        let named = |setting: &str| -> Result<Option<Base>> {
            let mut parts = finetune.model.pretrained_parts().into_iter();
            let Some((_, address)) = parts.find(|(own, _)| *own == setting) else {
                return Ok(None);
            };
            resolve_model(&format!("finetune.model.{setting}"), address, cache).map(|path| Some(Base::folder_of_model(path)))
        };
        Ok(Self {
            language_model: named("language_model_from_pretrained")?,
            vision_model: named("vision_model_from_pretrained")?,
            vision_projection: named("vision_projection_from_pretrained")?,
            rest,
        })
    }
}

impl Base {
    /// Returns the base of a run: by part from `finetune.model`, for the whole model from `restore_config`, or else the
    /// base of its adapter.
    ///
    /// # Errors
    /// The run names a folder that does not exist.
    pub fn of(finetune: &Finetune, cache: &ModelCache) -> Result<Self> {
        if finetune.model.pretrained_parts().is_empty() {
            return Self::of_whole(finetune, cache);
        }
        let rest = match &finetune.resume.restore_config {
            Some(_) => Self::of_whole(finetune, cache)?,
            None => Self::Seed(finetune.trainer.seed),
        };
        Ok(Self::Parts(Box::new(PartBases::open(finetune, cache, rest)?)))
    }

    pub(super) fn folder_of_model(path: PathBuf) -> Self {
        if CheckpointFolder::is_checkpoint(&path) {
            Self::Checkpoint(path)
        } else {
            Self::HuggingFace(path)
        }
    }

    fn of_whole(finetune: &Finetune, cache: &ModelCache) -> Result<Self> {
        match (&finetune.resume.restore_config, &finetune.resume.adapter_path) {
            (Some(restore), _) if restore.load_model_state => {
                let path = resolve_restore(&restore.path, cache)?;
                if CheckpointFolder::is_checkpoint(&path) && CheckpointFolder::open(&path)?.run.finetune.peft.is_some() {
                    return Err(EngineError::Run(vec![adapter_as_base(&path)]));
                }
                Ok(Self::folder_of_model(path))
            }
            (None, Some(adapter)) => match Adapter::open(adapter)? {
                Adapter::Checkpoint(checkpoint) => Self::of(&checkpoint.run.finetune, cache),
                Adapter::Peft(folder) => Err(EngineError::Run(vec![folder.config.missing_base(&folder.path)])),
            },
            _ => Ok(Self::Seed(finetune.trainer.seed)),
        }
    }

    /// Returns the folder. Of several, returns that of the language model, which has the tokenizer.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Self::HuggingFace(path) | Self::Checkpoint(path) | Self::Rebased { checkpoint: path, .. } => Some(path),
            Self::Seed(_) => None,
            Self::Parts(parts) => parts.language_model.as_ref().unwrap_or(&parts.rest).folder(),
        }
    }

    /// Returns all folders.
    pub fn folders(&self) -> Vec<&Path> {
        match self {
            Self::HuggingFace(path) | Self::Checkpoint(path) => vec![path],
            Self::Seed(_) => Vec::new(),
            Self::Parts(parts) => {
                let own = [&parts.language_model, &parts.vision_model, &parts.vision_projection];
                let own = own.into_iter().flatten().chain([&parts.rest]);
                own.flat_map(Self::folders).collect()
            }
            Self::Rebased { checkpoint, base } => [vec![checkpoint.as_path()], base.folders()].concat(),
        }
    }

    /// Returns the folder of the vision encoder, which has the image processor.
    pub fn vision_folder(&self) -> Option<&Path> {
        match self {
            Self::HuggingFace(path) | Self::Checkpoint(path) | Self::Rebased { checkpoint: path, .. } => Some(path),
            Self::Seed(_) => None,
            Self::Parts(parts) => parts.vision_model.as_ref().unwrap_or(&parts.rest).vision_folder(),
        }
    }

    /// Returns the reference that a checkpoint stores. Reads all weights of a Hugging Face folder.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn reference(&self) -> Result<BaseReference> {
        Ok(match self {
            Self::Parts(parts) => {
                let reference = |base: &Option<Self>| base.as_ref().map(|base| base.reference().map(Box::new)).transpose();
                BaseReference::Parts {
                    language_model: reference(&parts.language_model)?,
                    vision_model: reference(&parts.vision_model)?,
                    vision_projection: reference(&parts.vision_projection)?,
                    rest: Box::new(parts.rest.reference()?),
                }
            }
            Self::Seed(seed) => BaseReference::Seed { seed: *seed },
            Self::Checkpoint(path) | Self::Rebased { checkpoint: path, .. } => BaseReference::Checkpoint {
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
}
