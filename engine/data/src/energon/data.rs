//! Tools and datasets of a run, from its typed settings. The launcher checks them before a run starts, and every rank opens
//! its data with them.

use std::{path::Path, sync::Arc};

use neva_schemas::{EnergonMultiModalDataModule as Settings, ModelDescription, OnError, Problem};

use super::{
    dataset::{EnergonDataset, Tools},
    encoder::Encoder,
    metadataset::Opener,
};
use crate::{
    blend::Blended,
    error::DataError,
    on_error::SkipBroken,
    preloaded::{ModelFolders, PreloadedTools},
    sample::Dataset,
};

/// The datasets of a run.
pub struct EnergonData {
    /// Training samples.
    pub train: Arc<dyn Dataset>,
    /// Validation samples, if the dataset has the split `val`.
    pub val: Option<Arc<dyn Dataset>>,
}

impl EnergonData {
    /// Opens the tools that `data` names, or those in the model's `folders`.
    ///
    /// # Errors
    /// Returns all problems, each with its setting: see [`PreloadedTools::open`].
    pub fn tools(data: &Settings, model: &ModelDescription, folders: ModelFolders<'_>) -> Result<PreloadedTools, Vec<Problem>> {
        let renamed = |mut problem: Problem| {
            // The same settings have other places.
            let sample_config = "finetune.data.multimodal_sample_config.conversation_template_config";
            for name in ["conv_template", "conversation_template_config"] {
                problem.path = problem.path.replace(&format!("finetune.data.data_config.{name}"), sample_config);
            }
            problem.help = problem.help.map(|help| match help.starts_with("conv_template=v1") {
                true => "leave conversation_template_config at its default, LLaVA's template".to_owned(),
                false => help,
            });
            problem
        };
        match PreloadedTools::open(&data.preloaded(), model, folders) {
            Ok(mut tools) => {
                tools.warnings = tools.warnings.into_iter().map(renamed).collect();
                Ok(tools)
            }
            Err(problems) => Err(problems.into_iter().map(renamed).collect()),
        }
    }

    /// Opens the dataset of `data`.
    ///
    /// # Errors
    /// Metadata, a shard or an index is missing or invalid, or the split `train` has no samples.
    pub fn open(data: &Settings, model: &ModelDescription, tools: &PreloadedTools) -> Result<Self, DataError> {
        let (train, shares) = open_train(data, model, tools)?;
        let parts = train_parts(&train, &shares);
        let dataset = with_policy(data, train);
        let train: Arc<dyn Dataset> = match parts {
            Some((ranges, shares)) => Arc::new(Blended::with_shares(dataset, ranges, shares)?),
            None => dataset,
        };
        let val = open_val(data, model, tools)?.map(|val| with_policy(data, val));
        Ok(Self { train, val })
    }

    /// Opens the dataset of `data`, and encodes the first sample of each dataset within it, so that a launcher can do it
    /// before a run starts.
    ///
    /// # Errors
    /// Returns the errors of [`Self::open`], and of these samples.
    pub fn check(data: &Settings, model: &ModelDescription, tools: &PreloadedTools) -> Result<(), DataError> {
        let (train, _) = open_train(data, model, tools)?;
        let val = open_val(data, model, tools)?;
        for dataset in [Some(train), val].into_iter().flatten() {
            for index in dataset.first_samples() {
                match dataset.get_without_pixels(index) {
                    Err(error) if data.on_error == OnError::Fail || !error.is_of_one_sample() => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Opens the samples of one split as they are, before they are encoded.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn split(data: &Settings, model: &ModelDescription, tools: &PreloadedTools, split: &str) -> Result<EnergonDataset, DataError> {
        let mixture = Opener::new(&data.sample_loaders, true).open(&data.path, split)?;
        Ok(EnergonDataset::new(mixture, dataset_tools(data, model, tools)))
    }
}

fn open_train(data: &Settings, model: &ModelDescription, tools: &PreloadedTools) -> Result<(EnergonDataset, Vec<f64>), DataError> {
    let mut opener = Opener::new(&data.sample_loaders, false);
    let mixture = opener.open(&data.path, "train")?;
    let shares: Vec<f64> = mixture.leaves.iter().map(|(_, share)| *share).collect();
    let dataset = EnergonDataset::new(mixture, dataset_tools(data, model, tools));
    if dataset.is_empty() {
        let reason = "has no samples in the split `train`: set split_parts.train in split.yaml, or prepare the dataset again";
        return Err(super::metadata::invalid(&data.path, "", reason));
    }
    if let Some(name) = opener.unused().first() {
        // Validation may use others.
        let mut val = Opener::new(&data.sample_loaders, true);
        val.open(&data.path, "val")?;
        if val.unused().contains(name) {
            let reason = "is the mapping of no dataset: name it as the dataset's folder";
            return Err(super::metadata::invalid(Path::new(super::mapping::SETTING), name, reason));
        }
    }
    Ok((dataset, shares))
}

fn open_val(data: &Settings, model: &ModelDescription, tools: &PreloadedTools) -> Result<Option<EnergonDataset>, DataError> {
    let dataset = EnergonData::split(data, model, tools, "val")?;
    Ok(Some(dataset).filter(|dataset| !dataset.is_empty()))
}

/// Returns the ranges of the datasets and their samples per epoch; `None` if every sample occurs once.
fn train_parts(dataset: &EnergonDataset, shares: &[f64]) -> Option<(Vec<std::ops::Range<u64>>, Vec<f64>)> {
    let ranges = dataset.ranges();
    let is_plain = ranges
        .iter()
        .zip(shares)
        .all(|(range, share)| (range.end - range.start) as f64 == *share);
    (!is_plain).then(|| (ranges, shares.to_vec()))
}

fn with_policy(data: &Settings, dataset: EnergonDataset) -> Arc<dyn Dataset> {
    let dataset: Arc<dyn Dataset> = Arc::new(dataset);
    match data.on_error {
        OnError::Fail => dataset,
        OnError::Skip => Arc::new(SkipBroken::new(dataset, [], data.max_skipped())),
    }
}

fn dataset_tools(data: &Settings, model: &ModelDescription, tools: &PreloadedTools) -> Tools {
    let config = data.sample_config();
    Tools {
        encoder: Encoder {
            template: tools.template.clone(),
            image_token: config.image_token.token_str.clone(),
            image_following_text: config.image_following_text,
            reads_images: model.vision.is_some(),
        },
        tokenizer: Arc::clone(&tools.tokenizer),
        processor: tools.processor.clone(),
        apply_exif: data.apply_exif,
        decodes_always: data.on_error == OnError::Skip,
    }
}
