//! Tokenizer, image processor and settings that read a run's LLaVA-JSON data. The launcher checks them before a run
//! starts, and every rank opens its data with them, so that both report the same problems.

use std::{path::Path, sync::Arc};

use neva_schemas::{ImageProcessMode, ImageTokenPosition, ModelDescription, NevaPreloadedDataModule as Settings, Problem};

use crate::{
    error::DataError,
    image::{ImageProcessor, ModelProcessor, ProcessMode, ProcessorOrigin},
    llava::{ImagePosition, LlavaJsonConfig},
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

/// Folders of the base model of a run.
#[derive(Debug, Clone, Copy, Default)]
pub struct ModelFolders<'a> {
    /// Folder of the tokenizer: that of the language model.
    pub tokenizer: Option<&'a Path>,
    /// Folder of the image processor: that of the vision encoder.
    pub image_processor: Option<&'a Path>,
}

impl<'a> ModelFolders<'a> {
    /// Uses one folder for both.
    pub fn one(folder: Option<&'a Path>) -> Self {
        Self {
            tokenizer: folder,
            image_processor: folder,
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

impl LlavaJsonConfig {
    /// Creates the config for the files `paths` from the settings of `data`, for the model `model`.
    pub fn from_settings(data: &Settings, model: &ModelDescription, template: ChatTemplate, paths: &[std::path::PathBuf]) -> Self {
        Self {
            paths: paths.to_vec(),
            image_folder: data.data_config.image_folder.clone(),
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
