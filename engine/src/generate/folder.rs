//! A model in Hugging Face's format that answers with its own tokenizer, chat template, image processor and end tokens.

use super::source::{AnsweringModel, Weights, end_of_sequence, generation_ends, refused};
use crate::checkpoint::{Adapter, Base, CheckpointFolder, ModelCache, PeftFolder};
use crate::error::{EngineError, Result};
use crate::model::Models;
use neva_data::{ImageProcessor, ModelProcessor, ProcessMode, TextTools, Tokenizer};
use neva_layout::{HubAddress, Part};
use neva_schemas::{Finetune, GenerateSource, ImageDataConfig, ImageTextTokenization, Precision};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The option that names the model.
const MODEL: &str = "--model";

impl AnsweringModel {
    pub(super) fn of_model(source: &GenerateSource, models: &Models, cache: &ModelCache) -> Result<Self> {
        let GenerateSource::Model {
            address,
            adapter,
            conv_template,
            precision,
        } = source
        else {
            return Err(EngineError::Bug("the source is a checkpoint".into()));
        };
        let folder = folder(address, cache)?;
        let config = read_config(&folder)?;
        let (model, part) = {
            let invalid = |error: neva_layout::HfConfigError| EngineError::Content {
                path: folder.join("config.json"),
                reason: error.to_string(),
            };
            let found = models.families().folder_model(&config).map_err(invalid)?;
            (models.families().read_config(&config), found.part)
        };
        if matches!(part, Some(Part::Vision)) {
            let message = format!(
                "{} holds a vision encoder alone, which has no text to answer with",
                folder.display()
            );
            return Err(refused(
                MODEL,
                message,
                "name the folder of a language model, or of a model with images",
            ));
        }
        let model = model.map_err(|error| EngineError::Content {
            path: folder.join("config.json"),
            reason: error.to_string(),
        })?;
        let mut finetune = Finetune::evaluation(model, precision.unwrap_or_else(|| precision_of(&config)));
        let description = finetune.model.description();
        let text = text(&folder, conv_template.as_deref(), description.vision.is_some())?;
        if description.vision.is_some() && ImageProcessor::file_in(&folder).is_none() {
            tracing::warn!(
                "{} has no preprocessor_config.json: images are prepared with the default values of the vision encoder",
                folder.display()
            );
        }
        let processor = ModelProcessor::of_model(&description, Some(&folder))?.processor;
        let adapter = match adapter {
            Some(path) => Some(adapter_on(path, &mut finetune, models)?),
            None => None,
        };
        let named = generation_ends(&folder)?;
        Ok(Self {
            ends: if named.is_empty() {
                end_of_sequence(&text.tokenizer).into_iter().collect()
            } else {
                named
            },
            finetune,
            text,
            processor: processor.with_mode(ProcessMode::Square),
            apply_exif: false,
            weights: Weights {
                checkpoint: None,
                adapter,
                base: Base::HuggingFace(folder),
            },
        })
    }
}

/// Returns the folder of `address`, which has a `config.json`.
fn folder(address: &str, cache: &ModelCache) -> Result<PathBuf> {
    let folder = cache.path_of(address);
    if folder.join("config.json").is_file() {
        return Ok(folder);
    }
    let shown = folder.display();
    if let Some(Err(error)) = HubAddress::of(address) {
        return Err(refused(MODEL, error.to_string(), "write hf://ORG/NAME"));
    }
    let (message, help) = if folder.is_file() {
        (
            format!("{shown} is a file"),
            format!("import it, and name the folder that is printed: neva-run import {shown}"),
        )
    } else if !folder.is_dir() {
        let import = match HubAddress::of(address) {
            Some(Ok(hub)) => format!("download it: neva-run import {hub}"),
            _ => "name a folder with config.json, *.safetensors and tokenizer.json".to_owned(),
        };
        (format!("there is no model in {shown}"), import)
    } else if PeftFolder::is_peft(&folder) {
        let help = format!("name its base, and the adapter with --adapter {shown}");
        (format!("{shown} holds an adapter, not a model"), help)
    } else if CheckpointFolder::find(&folder).is_ok() {
        let help = format!("ask it with --checkpoint {shown}");
        (format!("{shown} is a checkpoint of this program"), help)
    } else {
        let help = "name a folder with config.json, *.safetensors and tokenizer.json; a run's folder goes with --checkpoint";
        (format!("{shown} has no config.json"), help.to_owned())
    };
    Err(refused(MODEL, message, help))
}

fn read_config(folder: &Path) -> Result<Value> {
    let path = folder.join("config.json");
    let bytes = std::fs::read(&path).map_err(EngineError::io("read", &path))?;
    serde_json::from_slice(&bytes).map_err(|error| EngineError::Content {
        path,
        reason: error.to_string(),
    })
}

/// Returns bf16 for weights that the config calls half precision, so that they take no more memory than on disk.
fn precision_of(config: &Value) -> Precision {
    let named = |config: &Value| {
        let name = config.get("dtype").or_else(|| config.get("torch_dtype"))?;
        name.as_str().map(str::to_owned)
    };
    let name = named(config).or_else(|| named(config.get("text_config")?));
    match name.as_deref() {
        Some("bfloat16" | "float16") => Precision::Bf16Mixed,
        _ => Precision::Fp32,
    }
}

/// Returns the folder's tokenizer with its chat template, or with the template `named`.
///
/// As in transformers, the processor of a model with images adds BOS to a text that does not begin with it, and the
/// tokenizer of a language model does not.
fn text(folder: &Path, named: Option<&str>, has_images: bool) -> Result<TextTools> {
    if Tokenizer::file_in(folder).is_none() {
        let message = format!("{} has no tokenizer", folder.display());
        return Err(refused(
            MODEL,
            message,
            "put tokenizer.json and tokenizer_config.json of the model there",
        ));
    }
    let tokenizer = Tokenizer::open(&folder.display().to_string())?;
    if named.is_none() && tokenizer.chat_template().is_none() {
        let message = format!("the tokenizer in {} has no chat template", folder.display());
        return Err(refused(
            MODEL,
            message,
            "name the template that the model was trained with: --conv-template v1",
        ));
    }
    let settings = ImageDataConfig {
        conv_template: named.map(str::to_owned),
        image_text_tokenization: ImageTextTokenization::HuggingFace,
        ..ImageDataConfig::default()
    };
    let add_bos = (named.is_none() && has_images).then(|| tokenizer.adds_bos());
    Ok(TextTools::new(&settings, add_bos, tokenizer)?)
}

/// Opens an adapter and gives `finetune` the adapters that it holds.
fn adapter_on(path: &Path, finetune: &mut Finetune, models: &Models) -> Result<Adapter> {
    const OPTION: &str = "--adapter";
    if CheckpointFolder::find(path).is_ok() {
        let message = format!("{} is a checkpoint of this program", path.display());
        let help = format!(
            "--checkpoint {} --base DIR, where DIR has the weights that it was trained on",
            path.display()
        );
        return Err(refused(OPTION, message, help));
    }
    if !PeftFolder::is_peft(path) {
        let message = format!("{} has no adapter_config.json", path.display());
        return Err(refused(OPTION, message, "name a folder that PEFT wrote"));
    }
    let folder = PeftFolder::open(path, OPTION)?;
    finetune.peft = Some(folder.settings(&models.resolve(&finetune.model)?)?);
    Ok(Adapter::Peft(Box::new(folder)))
}
