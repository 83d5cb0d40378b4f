//! The run that a Hugging Face folder stands for: it has the folder's weights and trains nothing.

use crate::checkpoint::read_json;
use crate::error::{EngineError, Result};
use neva_layout::Families;
use neva_schemas::{AdamW, AutoResume, Data, Finetune, Log, MockDataModule, Model, Optim, RestoreConfig, TrainerConfig};
use std::path::Path;

/// Returns a run of the model in a Hugging Face folder, which starts from its weights.
///
/// # Errors
/// `config.json` is missing, or describes a model that this program does not compute.
pub(super) fn run_of_folder(path: &Path, families: &Families) -> Result<Finetune> {
    let file = path.join("config.json");
    let config: serde_json::Value = read_json(&file)?;
    let model = families.read_config(&config).map_err(|error| EngineError::Content {
        path: file,
        reason: error.to_string(),
    })?;
    Ok(run_of_model(model, path))
}

fn run_of_model(model: Model, path: &Path) -> Finetune {
    Finetune {
        model,
        data: Data::Mock(MockDataModule::default()),
        trainer: TrainerConfig::default(),
        optim: Optim::AdamW(AdamW::default()),
        peft: None,
        log: Log::default(),
        resume: AutoResume {
            restore_config: Some(RestoreConfig::weights(path.display().to_string())),
            ..AutoResume::default()
        },
        nemo_compat: false,
    }
}
