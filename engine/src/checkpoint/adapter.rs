//! The adapter of `finetune.resume.adapter_path`: trained parameters that a run starts with, on top of its base.

use super::folder::CheckpointFolder;
use super::peft::PeftFolder;
use super::state::BaseReference;
use crate::error::{EngineError, Result};
use neva_schemas::Problem;
use std::path::Path;

/// The setting that names an adapter.
const SETTING: &str = "finetune.resume.adapter_path";

/// Trained parameters that a run starts with, on top of its base.
#[derive(Debug, Clone)]
pub enum Adapter {
    /// A checkpoint of this program: adapters, projector, and whatever else its run trained.
    Checkpoint(Box<CheckpointFolder>),
    /// A folder that Hugging Face's PEFT wrote.
    Peft(Box<PeftFolder>),
}

impl Adapter {
    /// Opens a checkpoint or a PEFT folder.
    ///
    /// # Errors
    /// The folder does not exist, is neither of the two, or cannot be read by this program.
    pub fn open(path: &Path) -> Result<Self> {
        if PeftFolder::is_peft(path) {
            return PeftFolder::open(path, SETTING).map(|folder| Self::Peft(Box::new(folder)));
        }
        if path.is_dir() && !CheckpointFolder::is_checkpoint(path) {
            let message = format!("{} is neither a checkpoint of this program nor a folder of PEFT", path.display());
            return Err(EngineError::Run(vec![Problem::error(SETTING, message).help(
                "name a folder with checkpoint.json, or with adapter_config.json and adapter_model.safetensors (or .bin)",
            )]));
        }
        CheckpointFolder::open(path).map(|checkpoint| Self::Checkpoint(Box::new(checkpoint)))
    }

    /// Checks that the files are whole, and that they were trained on `base` if they name their base.
    ///
    /// # Errors
    /// A file is damaged, or they belong to another base.
    pub fn verify(&self, base: &BaseReference) -> Result<()> {
        match self {
            Self::Checkpoint(checkpoint) => {
                checkpoint.verify()?;
                checkpoint.check_base(base, SETTING)
            }
            Self::Peft(_) => Ok(()),
        }
    }
}
