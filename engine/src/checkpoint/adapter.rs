//! What `finetune.resume.adapter_path` names: trained parameters that a run starts with, over its base.

use super::base::Base;
use super::folder::CheckpointFolder;
use super::peft::PeftFolder;
use super::state::BaseReference;
use crate::error::{EngineError, Result};
use neva_schemas::Problem;
use std::path::Path;

/// The setting that names an adapter.
const SETTING: &str = "finetune.resume.adapter_path";

/// Trained parameters that a run starts with, over its base.
#[derive(Debug, Clone)]
pub enum Adapter {
    /// Those of a checkpoint of ours: adapters, projector, whatever its run trained.
    Checkpoint(Box<CheckpointFolder>),
    /// Those of a folder that Hugging Face's PEFT wrote.
    Peft(PeftFolder),
}

impl Adapter {
    /// Opens either.
    ///
    /// # Errors
    /// The folder is not there, is neither of the two, or holds what this program cannot read.
    pub fn open(path: &Path) -> Result<Self> {
        if PeftFolder::is_one(path) {
            return PeftFolder::open(path).map(Self::Peft);
        }
        if path.is_dir() && !CheckpointFolder::is_one(path) {
            let message = format!("{} is neither a checkpoint of this program nor a folder of PEFT", path.display());
            return Err(EngineError::Run(vec![Problem::error(SETTING, message).help(
                "name a folder with checkpoint.json, or with adapter_config.json and adapter_model.safetensors",
            )]));
        }
        CheckpointFolder::open(path).map(|checkpoint| Self::Checkpoint(Box::new(checkpoint)))
    }

    /// Checks that the files are whole, and that they were trained on `base` where they say on what.
    ///
    /// # Errors
    /// One is damaged, or they belong to another base.
    pub fn verify(&self, base: &BaseReference) -> Result<()> {
        match self {
            Self::Checkpoint(checkpoint) => {
                checkpoint.verify()?;
                Base::check(base, checkpoint, SETTING)
            }
            Self::Peft(_) => Ok(()),
        }
    }
}
