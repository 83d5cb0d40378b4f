//! The data module of a run, and its tokenizer and image processor files.

use crate::checkpoint::Artifacts;
use crate::error::{EngineError, Result};
use neva_data::{Dataset, EnergonData, MockConfig, MockDataset, ModelFolders, PreloadedData, PreloadedTools, TaskEncoder};
use neva_schemas::{EnergonMultiModalDataModule, Finetune, MockDataModule, ModelDescription, NevaPreloadedDataModule, Problem};
use std::path::Path;
use std::sync::Arc;

/// The samples of a run, and the files that a checkpoint stores with them.
pub struct RunData {
    /// Training samples.
    pub train: Arc<dyn Dataset>,
    /// Validation samples, if the run has any.
    pub val: Option<Arc<dyn Dataset>>,
    /// Tokenizer and image processor, as files.
    pub artifacts: Artifacts,
}

/// Source of the samples of a run.
///
/// A custom type is registered with [`Registry::data`](super::Registry::data); a recipe then names it as the `_target_` of
/// `finetune.data`. The order of samples and their batches are decided elsewhere.
pub trait DataModule {
    /// Opens the data. Every rank calls it, and gets the same samples under the same indices. `base` is the folder of the
    /// weights, if there is one.
    ///
    /// # Errors
    /// The data is missing or invalid, or does not fit the model.
    fn open(&self, finetune: &Finetune, base: Option<&Path>) -> Result<RunData>;

    /// Opens the data of a model whose vision encoder may have its own folder.
    ///
    /// # Errors
    /// As [`Self::open`].
    fn open_with(&self, finetune: &Finetune, folders: ModelFolders<'_>) -> Result<RunData> {
        self.open(finetune, folders.tokenizer)
    }
}

impl DataModule for MockDataModule {
    fn open(&self, finetune: &Finetune, _: Option<&Path>) -> Result<RunData> {
        let model = finetune.model.description();
        let Some(decoder) = &model.decoder else {
            return Err(no_decoder());
        };
        let config = MockConfig {
            seq_length: self.sample_length(),
            image_seq_len: model.image_seq_length(),
            images_per_sample: usize::from(model.vision.is_some()),
            vocab_size: decoder.config.vocab_size as u64,
            image_height: model.image_size(),
            image_width: model.image_size(),
            num_samples: usize::try_from(self.num_train_samples).unwrap_or(usize::MAX),
            seed: self.seed,
        };
        let held_out = usize::try_from(self.num_val_samples).unwrap_or(usize::MAX);
        Ok(RunData {
            val: Some(Arc::new(MockDataset::validation(config.clone(), held_out)?)),
            train: Arc::new(MockDataset::new(config)?),
            artifacts: Artifacts::new(),
        })
    }
}

impl DataModule for NevaPreloadedDataModule {
    fn open(&self, finetune: &Finetune, base: Option<&Path>) -> Result<RunData> {
        self.open_with(finetune, ModelFolders::one(base))
    }

    fn open_with(&self, finetune: &Finetune, folders: ModelFolders<'_>) -> Result<RunData> {
        preloaded(self, &finetune.model.description(), folders)
    }
}

impl DataModule for EnergonMultiModalDataModule {
    fn open(&self, finetune: &Finetune, base: Option<&Path>) -> Result<RunData> {
        self.open_with(finetune, ModelFolders::one(base))
    }

    fn open_with(&self, finetune: &Finetune, folders: ModelFolders<'_>) -> Result<RunData> {
        energon(self, None, finetune, folders)
    }
}

/// An Energon dataset with a custom task encoder.
pub(super) struct EncodedEnergon {
    pub(super) data: EnergonMultiModalDataModule,
    pub(super) encoder: Arc<dyn TaskEncoder>,
}

impl DataModule for EncodedEnergon {
    fn open(&self, finetune: &Finetune, base: Option<&Path>) -> Result<RunData> {
        self.open_with(finetune, ModelFolders::one(base))
    }

    fn open_with(&self, finetune: &Finetune, folders: ModelFolders<'_>) -> Result<RunData> {
        energon(&self.data, Some(self.encoder.clone()), finetune, folders)
    }
}

fn energon(
    data: &EnergonMultiModalDataModule,
    encoder: Option<Arc<dyn TaskEncoder>>,
    finetune: &Finetune,
    folders: ModelFolders<'_>,
) -> Result<RunData> {
    let model = finetune.model.description();
    let tools = EnergonData::tools(data, &model, folders).map_err(EngineError::Run)?;
    log(&tools);
    let opened = EnergonData::open_with(data, &model, &tools, encoder)?;
    Ok(RunData {
        train: opened.train,
        val: opened.val,
        artifacts: tools.files,
    })
}

/// Logs the image processor, and warnings of tokenizer and template.
fn log(tools: &PreloadedTools) {
    tracing::info!("image processor: {}", tools.processor_origin);
    for warning in &tools.warnings {
        tracing::warn!("{}: {}", warning.path, warning.message);
    }
}

fn preloaded(data: &NevaPreloadedDataModule, model: &ModelDescription, folders: ModelFolders<'_>) -> Result<RunData> {
    let tools = PreloadedTools::open(data, model, folders).map_err(EngineError::Run)?;
    log(&tools);
    let opened = PreloadedData::open(data, model, &tools, folders.record_cache)?;
    for warning in &opened.warnings {
        tracing::warn!("{warning}");
    }
    Ok(RunData {
        train: opened.train,
        val: opened.val,
        artifacts: tools.files,
    })
}

fn no_decoder() -> EngineError {
    EngineError::Run(vec![Problem::error(
        "finetune.model",
        "the model has no decoder, so there is no text to train on",
    )])
}
