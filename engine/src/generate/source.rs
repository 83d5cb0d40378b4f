//! The model that answers, with its tokenizer, template and image processor.

use crate::checkpoint::{Adapter, Base, CheckpointFolder, ModelCache, Sources};
use crate::comm::Mesh;
use crate::error::{EngineError, Result};
use crate::model::Models;
use crate::trainer::LoadedModel;
use neva_data::{ImageProcessor, ModelProcessor, TextTools, Tokenizer};
use neva_layout::{end_tokens, unapplied_generation_settings};
use neva_schemas::{Finetune, GenerateSource, ImageDataConfig, ModelDescription, Plugins, Problem};
use serde_json::Value;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use tch::Device;

/// The model that answers, with everything that makes a prompt of a question. Its weights are loaded later, so that a wrong
/// prompt is reported at once.
#[derive(Debug)]
pub struct AnsweringModel {
    /// Settings of the model, on one rank.
    pub(super) finetune: Finetune,
    pub(super) text: TextTools,
    pub(super) processor: ImageProcessor,
    pub(super) apply_exif: bool,
    /// Tokens that end an answer.
    pub(super) ends: Vec<i64>,
    pub(super) weights: Weights,
}

/// Sources of the weights.
#[derive(Debug)]
pub(super) struct Weights {
    pub(super) checkpoint: Option<CheckpointFolder>,
    pub(super) adapter: Option<Adapter>,
    pub(super) base: Base,
}

impl AnsweringModel {
    /// Opens a checkpoint or a model in Hugging Face's format.
    ///
    /// # Errors
    /// It does not exist, lacks a tokenizer or a template, or cannot be read by this program.
    pub fn open(source: &GenerateSource, models: &Models, cache: &ModelCache) -> Result<Self> {
        match source {
            GenerateSource::Checkpoint { path, base } => Self::of_checkpoint(path, base, cache),
            GenerateSource::Model { .. } => Self::of_model(source, models, cache),
        }
    }

    /// Loads the weights.
    ///
    /// # Errors
    /// A file is missing, not whole, or does not fit the model.
    pub fn load(&self, models: &Models, cache: &ModelCache) -> Result<LoadedModel> {
        let Weights { checkpoint, adapter, base } = &self.weights;
        let sources = Sources {
            checkpoint: checkpoint.as_ref(),
            adapter: adapter.as_ref(),
            base,
            cache,
        };
        LoadedModel::load(&self.finetune, models, sources, &Mesh::single(), Device::Cpu)
    }

    fn of_checkpoint(path: &Path, moved: &[PathBuf], cache: &ModelCache) -> Result<Self> {
        let checkpoint = CheckpointFolder::find(path)?;
        let finetune = &checkpoint.run.finetune;
        let model = finetune.model.description();
        if !checkpoint.path.join("tokenizer.json").is_file() {
            let reason = "holds no tokenizer.json: the data of its run has no text, as mock data".into();
            return Err(EngineError::Content {
                path: checkpoint.path.clone(),
                reason,
            });
        }
        let (data_config, add_bos) = finetune.data.text_settings().unwrap_or((ImageDataConfig::default(), None));
        let tokenizer = Tokenizer::open(&checkpoint.path.display().to_string())?;
        let text = TextTools::new(&data_config, add_bos, tokenizer)?;
        let base = Base::of_checkpoint(&checkpoint, moved, cache)?;
        let processor = processor(&checkpoint, &model, &base)?.with_mode(data_config.image_process_mode.into());
        let ends = base.folder().map(generation_ends).transpose()?.unwrap_or_default();
        let mut finetune = finetune.clone();
        finetune.trainer.strategy.set_one_rank();
        // Scales belong to training: an answer is computed with the weights in bf16.
        let Plugins::MixedPrecision(plugin) = &mut finetune.trainer.plugins;
        plugin.fp8 = None;
        Ok(Self {
            ends: ends.into_iter().chain(end_of_sequence(&text.tokenizer)).collect(),
            finetune,
            text,
            processor,
            apply_exif: data_config.apply_exif,
            weights: Weights {
                checkpoint: Some(checkpoint),
                adapter: None,
                base,
            },
        })
    }
}

/// Returns the tokenizer's end of sequence.
pub(super) fn end_of_sequence(tokenizer: &Tokenizer) -> Option<i64> {
    tokenizer.special().eos.map(i64::from)
}

/// Returns the tokens that end an answer by the `generation_config.json` of a folder, or else by its `config.json`. Warns of
/// settings that are not applied. Both files are optional.
///
/// # Errors
/// A file cannot be read, or is not JSON.
pub(super) fn generation_ends(folder: &Path) -> Result<Vec<i64>> {
    let content = |name: &str| -> Result<Option<Value>> {
        let path = folder.join(name);
        match std::fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            read => serde_json::from_slice(&read.map_err(EngineError::io("read", &path))?)
                .map(Some)
                .map_err(|error| EngineError::Content {
                    reason: format!("not JSON: {error}; download it again, or remove it"),
                    path,
                }),
        }
    };
    let Some(generation) = content("generation_config.json")? else {
        return Ok(content("config.json")?.as_ref().map_or_else(Vec::new, end_tokens));
    };
    for sentence in unapplied_generation_settings(&generation) {
        tracing::warn!("{}: {sentence}", folder.join("generation_config.json").display());
    }
    Ok(end_tokens(&generation))
}

/// Returns the image processor of the checkpoint, or that of its base.
fn processor(checkpoint: &CheckpointFolder, model: &ModelDescription, base: &Base) -> Result<ImageProcessor> {
    let own = ImageProcessor::file_in(&checkpoint.path).map(|_| checkpoint.path.as_path());
    Ok(ModelProcessor::of_model(model, own.or_else(|| base.vision_folder()))?.processor)
}

/// Returns a problem of an option of the command line.
pub(super) fn refused(option: &str, message: String, help: impl Into<String>) -> EngineError {
    EngineError::Run(vec![Problem::error(option, message).help(help)])
}
