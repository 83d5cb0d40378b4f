//! Tools and datasets of a run, from its typed settings. The launcher checks them before a run starts, and every rank opens
//! its data with them.

use std::{path::Path, sync::Arc};

use neva_schemas::{EnergonMultiModalDataModule as Settings, ModelDescription, OnError, Problem, TaskEncoder as EncoderConfig};

use super::{
    dataset::{EnergonDataset, Tools},
    encoder::Encoder,
    metadataset::Opener,
    task_encoder::TaskEncoder,
};
use crate::{
    blend::Blended,
    error::DataError,
    on_error::SkipBroken,
    preloaded::{ModelFolders, PreloadedTools},
    sample::Dataset,
    sample_list::SampleList,
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
        Self::open_with(data, model, tools, None)
    }

    /// Opens the dataset of `data`, whose samples `encoder` encodes, if there is one.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(
        data: &Settings,
        model: &ModelDescription,
        tools: &PreloadedTools,
        encoder: Option<Arc<dyn TaskEncoder>>,
    ) -> Result<Self, DataError> {
        let (train, shares) = open_train(data, model, tools)?;
        let train = train.encoded_by(encoder.clone());
        let mut parts = train_parts(&train, &shares);
        let skipped = data.skip_list.as_deref().map(SampleList::read).transpose()?.unwrap_or_default();
        let whole = |dataset: EnergonDataset| -> Result<(Arc<dyn Dataset>, Vec<u64>), DataError> {
            let kept = match skipped.samples.is_empty() {
                true => (0..dataset.len() as u64).collect(),
                false => skipped.kept(&dataset),
            };
            Ok((SampleList::apply(Arc::new(dataset), kept.clone())?, kept))
        };
        let (dataset, kept) = whole(train)?;
        if dataset.is_empty() {
            let reason = "names all samples of the split `train`: there is nothing to train on";
            return Err(super::metadata::invalid(Path::new("finetune.data"), "skip_list", reason));
        }
        for range in parts.iter_mut().flat_map(|(ranges, _)| ranges) {
            // The kept indices are sorted, so those of a dataset are a range of positions among them.
            let position = |index: u64| kept.partition_point(|own| *own < index) as u64;
            *range = position(range.start)..position(range.end);
        }
        let dataset = with_policy(data, dataset);
        let train: Arc<dyn Dataset> = match parts {
            Some((ranges, shares)) => Arc::new(Blended::with_shares(dataset, ranges, shares)?),
            None => dataset,
        };
        let val = open_val(data, model, tools)?.map(|val| val.encoded_by(encoder));
        let val = val.map(whole).transpose()?;
        let val = val.filter(|(val, _)| !val.is_empty()).map(|(val, _)| with_policy(data, val));
        Ok(Self { train, val })
    }

    /// Opens the dataset of `data`, and encodes the first sample of each dataset within it, so that a launcher can do it
    /// before a run starts.
    ///
    /// # Errors
    /// Returns the errors of [`Self::open`], and of these samples.
    pub fn check(data: &Settings, model: &ModelDescription, tools: &PreloadedTools) -> Result<(), DataError> {
        let skipped = data.skip_list.as_deref().map(SampleList::read).transpose()?.unwrap_or_default();
        let (train, _) = open_train(data, model, tools)?;
        let val = open_val(data, model, tools)?;
        if matches!(data.task_encoder, Some(EncoderConfig::Custom(_))) {
            // Only the rank program has the encoder.
            return Ok(());
        }
        for dataset in [Some(train), val].into_iter().flatten() {
            for index in dataset.first_samples() {
                if skipped.samples.contains_key(&dataset.name(index)) {
                    continue;
                }
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

fn with_policy(data: &Settings, dataset: Arc<dyn Dataset>) -> Arc<dyn Dataset> {
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
            custom: None,
        },
        tokenizer: Arc::clone(&tools.tokenizer),
        processor: tools.processor.clone(),
        apply_exif: data.apply_exif,
        decodes_always: data.on_error == OnError::Skip,
    }
}
