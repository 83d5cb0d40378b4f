//! Tokenizer, image processor and settings that read a run's LLaVA-JSON data. The launcher checks them before a run
//! starts, and every rank opens its data with them, so that both report the same problems.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use neva_schemas::{ImageProcessMode, ImageTokenPosition, ModelDescription, NevaPreloadedDataModule as Settings, OnError, Problem};

use serde_json::Value;

use crate::{
    blend::Blended,
    error::DataError,
    image::{ImageProcessor, ModelProcessor, ProcessMode, ProcessorOrigin},
    llava::{Broken, ImagePosition, LlavaDataset, LlavaJsonConfig, Reading},
    on_error::SkipBroken,
    sample::Dataset,
    skip_list::SkipList,
    split::{Subset, split},
    template::ChatTemplate,
    text_tools::TextTools,
    tokenizer::Tokenizer,
};

const DATA: &str = "finetune.data";

/// Tokenizer and image processor of a run's data, checked against its model.
#[derive(Debug)]
pub struct PreloadedTools {
    /// The tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// The conversation template.
    pub template: ChatTemplate,
    /// Problems of tokenizer and template that do not end a run.
    pub warnings: Vec<Problem>,
    /// The image processor, in the run's mode.
    pub processor: ImageProcessor,
    /// Origin of the image processor.
    pub processor_origin: ProcessorOrigin,
    /// Names and contents of the files of both, which a checkpoint stores.
    pub files: Vec<(String, Vec<u8>)>,
}

/// Folders of the base model of a run, and of the indices of its data.
#[derive(Debug, Clone, Copy, Default)]
pub struct ModelFolders<'a> {
    /// Folder of the tokenizer: that of the language model.
    pub tokenizer: Option<&'a Path>,
    /// Folder of the image processor: that of the vision encoder.
    pub image_processor: Option<&'a Path>,
    /// Folder in which the indices of record files are saved, usually [`RecordFile::cache_folder`](crate::RecordFile::cache_folder).
    pub record_cache: Option<&'a Path>,
}

impl<'a> ModelFolders<'a> {
    /// Uses one folder for both.
    pub fn one(folder: Option<&'a Path>) -> Self {
        Self {
            tokenizer: folder,
            image_processor: folder,
            record_cache: None,
        }
    }
}

impl PreloadedTools {
    /// Opens the tokenizer and the image processor that `data` names, or those in the model's `folders`. Without the file of
    /// an image processor, the values of the vision encoder's family are used.
    ///
    /// # Errors
    /// Returns all problems, each with its setting: files that are missing or cannot be read, and values that do not fit
    /// `model`.
    pub fn open(data: &Settings, model: &ModelDescription, folders: ModelFolders<'_>) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let text = match tokenizer(data, model, folders.tokenizer) {
            Ok(tokenizer) => text(data, tokenizer).map_err(|problem| problems.push(problem)).ok(),
            Err(problem) => {
                let config = &data.data_config;
                let name = config
                    .conv_template
                    .as_deref()
                    .filter(|_| config.conversation_template_config.is_none());
                if let Some(Err(error)) = name.map(ChatTemplate::named) {
                    problems.push(Problem::error(format!("{DATA}.data_config.conv_template"), error.to_string()));
                }
                problems.push(problem);
                None
            }
        };
        let processor = processor(data, model, folders.image_processor)
            .map_err(|problem| problems.push(problem))
            .ok();
        match (text, processor) {
            (Some((TextTools { tokenizer, template }, warnings)), Some(processor)) if problems.is_empty() => {
                let mut files = tokenizer.files();
                files.extend(model.vision.is_some().then(|| processor.file()));
                Ok(Self {
                    tokenizer: Arc::new(tokenizer),
                    template,
                    warnings,
                    processor: processor.processor,
                    processor_origin: processor.origin,
                    files,
                })
            }
            _ => Err(problems),
        }
    }
}

/// The datasets of a run.
pub struct PreloadedData {
    /// Training samples.
    pub train: Arc<dyn Dataset>,
    /// Validation samples, if the run has any.
    pub val: Option<Arc<dyn Dataset>>,
    /// Sentences for the log.
    pub warnings: Vec<String>,
}

impl PreloadedData {
    /// Opens the files of `data`. The indices of record files are saved in the folder `cache`.
    ///
    /// # Errors
    /// Returns the errors of [`LlavaDataset::open`], [`SkipList::read`], [`split`] and [`Blended::new`].
    pub fn open(data: &Settings, model: &ModelDescription, tools: &PreloadedTools, cache: Option<&Path>) -> Result<Self, DataError> {
        let skip_list = data.skip_list.as_deref().map(SkipList::read).transpose()?;
        let broken = match data.on_error {
            OnError::Fail => Broken::Fail,
            OnError::Skip => Broken::Skip(data.max_skipped()),
        };
        let reading = Reading {
            cache: cache.map(Path::to_owned),
            broken,
            skip_list: skip_list.map(Arc::new),
        };
        let mut warnings = Vec::new();
        let mut load = |paths: &[PathBuf]| -> Result<Arc<LlavaDataset>, DataError> {
            let config = LlavaJsonConfig::from_settings(data, model, tools.template.clone(), paths);
            let dataset = LlavaDataset::open(&config, &reading, Arc::clone(&tools.tokenizer), tools.processor.clone())?;
            warnings.extend_from_slice(dataset.warnings());
            Ok(Arc::new(dataset))
        };
        let all = load(&data.paths)?;
        let whole: Vec<u64> = (0..all.len() as u64).collect();
        let (train, val) = if data.val_split > 0.0 {
            let cut = split(all.len() as u64, data.val_split, data.seed)?;
            let val = select(&all, &cut.val, broken)?;
            (cut.train, Some(val))
        } else if data.val_paths.is_empty() {
            (whole, None)
        } else {
            let val = load(&data.val_paths)?;
            let indices: Vec<u64> = (0..val.len() as u64).collect();
            (whole, Some(select(&val, &indices, broken)?))
        };
        let mut dataset = select(&all, &train, broken)?;
        if let Some(weights) = &data.weights {
            // Training indices are sorted, so those of a file are a range of positions among them.
            let position = |index: u64| train.partition_point(|own| *own < index) as u64;
            let parts = all.file_ranges().into_iter().map(|file| position(file.start)..position(file.end));
            dataset = Arc::new(Blended::new(dataset, parts.collect(), weights.clone())?);
        }
        Ok(Self {
            train: dataset,
            val,
            warnings,
        })
    }
}

/// Returns the samples at `indices`, which are sorted, with the policy for broken ones. A broken sample is replaced by
/// another one of `indices`: training never reads a validation sample.
fn select(all: &Arc<LlavaDataset>, indices: &[u64], broken: Broken) -> Result<Arc<dyn Dataset>, DataError> {
    let dataset: Arc<dyn Dataset> = match indices.len() == all.len() {
        true => Arc::clone(all) as Arc<dyn Dataset>,
        false => Arc::new(Subset::new(Arc::clone(all) as Arc<dyn Dataset>, indices.to_vec())?),
    };
    let Broken::Skip(max_skipped) = broken else { return Ok(dataset) };
    let known = all.broken().iter().filter_map(|index| indices.binary_search(&(*index as u64)).ok());
    Ok(Arc::new(SkipBroken::new(dataset, known, max_skipped)))
}

impl LlavaJsonConfig {
    /// Creates the config for the files `paths` from the settings of `data`, for the model `model`.
    pub fn from_settings(data: &Settings, model: &ModelDescription, template: ChatTemplate, paths: &[std::path::PathBuf]) -> Self {
        Self {
            paths: paths.to_vec(),
            image_folder: data.data_config.image_folder.clone(),
            apply_exif: data.data_config.apply_exif,
            template,
            image_token_position: match data.data_config.image_token_position {
                ImageTokenPosition::Keep => ImagePosition::Keep,
                ImageTokenPosition::Front => ImagePosition::Front,
            },
            reads_images: model.vision.is_some(),
        }
    }
}

impl From<ImageProcessMode> for ProcessMode {
    fn from(mode: ImageProcessMode) -> Self {
        match mode {
            ImageProcessMode::Pad => Self::Pad,
            ImageProcessMode::Keep => Self::Keep,
            ImageProcessMode::Square => Self::Square,
        }
    }
}

fn tokenizer(data: &Settings, model: &ModelDescription, base: Option<&Path>) -> Result<Tokenizer, Problem> {
    const SETTING: &str = "finetune.data.tokenizer";
    const HELP: &str = "name a folder with tokenizer.json, or `builtin:mistral_2k`";
    let address = match (&data.tokenizer, base) {
        (Some(address), _) => address.clone(),
        (None, Some(folder)) => folder.display().to_string(),
        (None, None) => {
            let message = "no tokenizer is named, and the run starts from no model folder that would have one";
            return Err(Problem::error(SETTING, message).help(HELP));
        }
    };
    let tokenizer = Tokenizer::open(&address).map_err(|error| Problem::error(SETTING, error.to_string()).help(HELP))?;
    let (tokens, rows) = (tokenizer.vocab_size(), model.vocab_size());
    if tokens > rows {
        let message = format!("the tokenizer {address} has {tokens} tokens, the embedding only {rows} rows");
        let section = model.decoder.as_ref().map_or("text_config", |decoder| decoder.section);
        return Err(Problem::error(format!("finetune.model.{section}.vocab_size"), message));
    }
    let own = base.filter(|_| data.tokenizer.is_none() && model.vision.is_some());
    if let Some(folder) = own
        && let Some(index) = image_token_index(folder)
        && let Some(message) = tokenizer.image_token_problem(index)
    {
        let help = format!("add the token to {}, or name another tokenizer", folder.display());
        return Err(Problem::error(SETTING, message).help(help));
    }
    Ok(tokenizer)
}

/// Returns the text tools of `data`, with their warnings.
fn text(data: &Settings, tokenizer: Tokenizer) -> Result<(TextTools, Vec<Problem>), Problem> {
    const SETTING: &str = "finetune.data.data_config";
    let config = &data.data_config;
    let setting = match (&config.conversation_template_config, &config.conv_template) {
        (Some(_), _) => format!("{SETTING}.conversation_template_config"),
        (None, _) => format!("{SETTING}.conv_template"),
    };
    let unapplied = tokenizer.unapplied().iter();
    let mut warnings: Vec<_> = unapplied
        .map(|sentence| Problem::warning("finetune.data.tokenizer", format!("tokenizer_config.json: {sentence}")))
        .collect();
    let problem = |error: DataError| Problem::error(setting.as_str(), error.to_string());
    let tools = TextTools::new(config, data.add_bos, tokenizer).map_err(|error| match &error {
        DataError::NoTemplate { .. } => problem(error).help("conv_template=v1 is that of LLaVA-1.5"),
        _ => problem(error),
    })?;
    let headers = tools
        .check_control_strings()
        .map_err(|error| problem(error).help("choose the template that the language model was trained with, or another tokenizer"))?;
    warnings.extend(headers.map(|sentence| Problem::warning(setting.as_str(), sentence)));
    Ok((tools, warnings))
}

/// Returns the id of the image token in the `config.json` of a whole model, if the file has one.
fn image_token_index(folder: &Path) -> Option<i64> {
    let text = std::fs::read(folder.join("config.json")).ok()?;
    let config: Value = serde_json::from_slice(&text).ok()?;
    ["image_token_index", "image_token_id"]
        .iter()
        .find_map(|name| config.get(name)?.as_i64())
}

/// Returns the image processor that `data` names, or that of the model.
fn processor(data: &Settings, model: &ModelDescription, folder: Option<&Path>) -> Result<ModelProcessor, Problem> {
    const SETTING: &str = "finetune.data.image_processor";
    let edge = model.image_size();
    let refused = |error: DataError| {
        let help = "name a folder with preprocessor_config.json, or such a file";
        Problem::error(SETTING, error.to_string()).help(help)
    };
    let found = match &data.image_processor {
        Some(path) => ModelProcessor::open(path),
        None => ModelProcessor::of_model(model, folder),
    };
    let mut found = found.map_err(refused)?;
    found.processor = found.processor.with_mode(data.data_config.image_process_mode.into());
    if model.vision.is_some() && found.processor.output_size() != Some((edge, edge)) {
        let size = found.processor.output_size();
        let size = size.map_or("of varying size".to_owned(), |(height, width)| format!("of {height} x {width}"));
        let message = format!(
            "images would be {size} ({}), the vision encoder takes {edge} x {edge}",
            found.origin
        );
        return Err(
            Problem::error(DATA, message).help("use image_process_mode pad or square, and an image processor of the encoder's size")
        );
    }
    Ok(found)
}
