//! Files beside the weights, so that the export can be loaded without the base: tokenizer, chat template, processor,
//! image processor, generation config.

use super::config;
use super::files::{copy, read_json, write, write_json};
use super::generation::generation_config;
use super::source::Source;
use super::tokenizer_files::{TokenIds, TokenizerFiles};
use crate::checkpoint::{Base, CheckpointFolder, ModelCache};
use crate::error::{EngineError, Result};
use neva_data::{IMAGE_TOKEN, ImageProcessor, ModelProcessor, TextTools, Tokenizer};
use neva_layout::ModelTable;
use neva_schemas::{Finetune, ImageDataConfig, ImageProcessMode};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The file of an image processor.
const IMAGE_PROCESSOR: &str = "preprocessor_config.json";
/// The file of a processor, in which transformers 5 nests the image processor.
const PROCESSOR: &str = "processor_config.json";
/// The file of settings of generation.
const GENERATION: &str = "generation_config.json";

/// Files of a model's folder besides config and weights.
const NAMES: &[&str] = &[
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "chat_template.json",
    GENERATION,
    IMAGE_PROCESSOR,
    PROCESSOR,
];

/// Endings of such files.
const ENDINGS: &[&str] = &["model", "jinja", "txt"];

/// The written files, as far as the config depends on them.
#[derive(Debug)]
pub(super) struct Companions {
    /// Sentences for the user.
    pub(super) notes: Vec<String>,
    ids: Option<TokenIds>,
}

impl Companions {
    /// Writes the files to `folder`.
    ///
    /// # Errors
    /// A file cannot be read or written, or has invalid content.
    pub(super) fn write(source: &Source, cache: &ModelCache, folder: &Path) -> Result<Self> {
        collect(source, cache, folder)?;
        let mut notes = Vec::new();
        if let Some(processor) = source.table.processor_config() {
            image_processor(&source.finetune, &source.table, folder)?;
            let path = folder.join(PROCESSOR);
            if !path.is_file() {
                write_json(&path, &processor)?;
            }
        }
        let ids = text(source, folder, &mut notes)?;
        if let Some(ids) = &ids {
            let path = folder.join(GENERATION);
            let own = if path.is_file() { read_json(&path)? } else { Value::Null };
            write_json(&path, &generation_config(own, ids))?;
        }
        Ok(Self { notes, ids })
    }

    /// Returns the content of `config.json`.
    ///
    /// # Errors
    /// The base's file cannot be read.
    pub(super) fn config(&self, source: &Source, cache: &ModelCache) -> Result<Value> {
        let own = match root(source.base.clone(), cache)? {
            Base::HuggingFace(folder) => Some(read_json(&folder.join("config.json"))?),
            _ => None,
        };
        Ok(config::config(own, &source.table, self.ids.as_ref()))
    }
}

/// Copies the files of the base, of the checkpoints on the way, and of the run, each over those before.
pub(super) fn collect(source: &Source, cache: &ModelCache, folder: &Path) -> Result<()> {
    for from in folders(&source.base, cache)? {
        copy_all(&from, folder)?;
    }
    if let Base::Parts(parts) = root(source.base.clone(), cache)? {
        // The tokenizer of a CLIP is not the model's.
        let vision = parts.vision_model.as_ref().and_then(Base::folder);
        if let Some(file) = vision.and_then(ImageProcessor::file_in) {
            let (name, content) = ModelProcessor::open(&file)?.file();
            write(&folder.join(name), &content)?;
            remove(&folder.join(PROCESSOR))?;
        }
    }
    if let Some(checkpoint) = &source.checkpoint {
        copy_all(&checkpoint.path, folder)?;
        if checkpoint.path.join(IMAGE_PROCESSOR).is_file() {
            nest_processor(folder)?;
        }
    }
    Ok(())
}

/// Returns the folders that have the tokenizer, from the first base on.
fn folders(base: &Base, cache: &ModelCache) -> Result<Vec<PathBuf>> {
    Ok(match base {
        Base::Seed(_) => Vec::new(),
        Base::HuggingFace(folder) => vec![folder.clone()],
        Base::Parts(parts) => folders(parts.language_model.as_ref().unwrap_or(&parts.rest), cache)?,
        Base::Checkpoint(path) => {
            let checkpoint = CheckpointFolder::open(path)?;
            let mut found = match checkpoint.state.whole {
                true => Vec::new(),
                false => folders(&Base::of(&checkpoint.run.finetune, cache)?, cache)?,
            };
            found.push(path.clone());
            found
        }
        Base::Rebased { checkpoint, base } => {
            let mut found = folders(base, cache)?;
            found.push(checkpoint.clone());
            found
        }
    })
}

/// Follows checkpoints to the base that the first of them was trained on.
pub(super) fn root(base: Base, cache: &ModelCache) -> Result<Base> {
    match base {
        Base::Checkpoint(path) => {
            let checkpoint = CheckpointFolder::open(&path)?;
            match checkpoint.state.whole {
                true => Ok(Base::Seed(checkpoint.run.finetune.trainer.seed)),
                false => root(Base::of(&checkpoint.run.finetune, cache)?, cache),
            }
        }
        Base::Rebased { base, .. } => root(*base, cache),
        base => Ok(base),
    }
}

/// Copies the files that belong to tokenizer and processor.
fn copy_all(from: &Path, folder: &Path) -> Result<()> {
    let entries = std::fs::read_dir(from).map_err(EngineError::io("read", from))?;
    let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    for path in files.iter().filter(|path| path.is_file()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let ending = path.extension().unwrap_or_default().to_string_lossy();
        if NAMES.contains(&&*name) || ENDINGS.contains(&&*ending) {
            copy(path, folder)?;
        }
    }
    Ok(())
}

/// Writes the image processor of the run into the base's `processor_config.json`, which transformers reads first.
fn nest_processor(folder: &Path) -> Result<()> {
    let path = folder.join(PROCESSOR);
    if !path.is_file() {
        return Ok(());
    }
    let mut content = read_json(&path)?;
    let Some(nested) = content.get_mut("image_processor").filter(|nested| nested.is_object()) else {
        return Ok(());
    };
    *nested = read_json(&folder.join(IMAGE_PROCESSOR))?;
    write_json(&path, &content)
}

/// Completes the files of the tokenizer, and writes the chat template of the run.
fn text(source: &Source, folder: &Path, notes: &mut Vec<String>) -> Result<Option<TokenIds>> {
    if Tokenizer::file_in(folder).is_none() {
        notes.push("there is no tokenizer: the data of the run has no text".to_owned());
        return Ok(None);
    }
    let open = || Tokenizer::open(&folder.display().to_string());
    let tools = match source.finetune.data.text_settings() {
        Some((data_config, add_bos)) if source.checkpoint.is_some() => Some(TextTools::new(&data_config, add_bos, open()?)?),
        _ => None,
    };
    let tokenizer = match open() {
        Ok(tokenizer) => tokenizer,
        // The run did not read it.
        Err(error) if tools.is_none() => {
            notes.push(format!("the tokenizer is copied as it is: {error}"));
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    let needs_image = source
        .table
        .processor_config()
        .is_some_and(|config| config["image_token"] == IMAGE_TOKEN);
    let tokenizer = match needs_image && tokenizer.special().image.is_none() {
        true => with_image_token(tokenizer, &source.table, folder, notes)?,
        false => tokenizer,
    };
    let mut files = TokenizerFiles::open(folder, tokenizer, &source.table)?;
    if let Some(tools) = &tools {
        let is_own = data_config(&source.finetune)
            .is_some_and(|config| config.conversation_template_config.is_none() && config.conv_template.is_none());
        files.set_stop(tools.template.stop());
        if !is_own {
            files.set_bos(tools.tokenizer.adds_bos());
            // A processor adds BOS to the text that it is given; `apply_chat_template` of a tokenizer does not.
            let bos = source.table.description.vision.is_none() && tools.tokenizer.adds_bos();
            files.set_template(tools.template.to_jinja(bos));
        }
    }
    files.write(folder, notes).map(Some)
}

/// Adds `<image>` as the next token of the vocabulary, if the embedding has a row for it.
fn with_image_token(tokenizer: Tokenizer, table: &ModelTable, folder: &Path, notes: &mut Vec<String>) -> Result<Tokenizer> {
    let address = folder.display().to_string();
    let extended = Tokenizer::extended(&address, &[IMAGE_TOKEN], &[("image_token", IMAGE_TOKEN)])?;
    let rows = table.description.decoder.as_ref().map_or(0, |decoder| decoder.config.vocab_size);
    if extended.rows > rows {
        notes.push(format!(
            "the tokenizer has no token `{IMAGE_TOKEN}`, and the embedding has no free row for it: transformers' processor cannot be used"
        ));
        return Ok(tokenizer);
    }
    for (name, content) in extended.files {
        write(&folder.join(name), &content)?;
    }
    Ok(Tokenizer::open(&address)?)
}

fn data_config(finetune: &Finetune) -> Option<ImageDataConfig> {
    finetune.data.text_settings().map(|(config, _)| config)
}

/// Writes the image processor of the run: that of its files, else the values of the vision encoder's family. One that was
/// used with padding to a square pads itself, as transformers' `LlavaImageProcessor` does.
fn image_processor(finetune: &Finetune, table: &ModelTable, folder: &Path) -> Result<()> {
    let found = ImageProcessor::file_in(folder);
    let has_file = found.is_some();
    let processor = ModelProcessor::of_model(&table.description, has_file.then_some(folder))?;
    let pads = data_config(finetune).is_some_and(|config| config.image_process_mode == ImageProcessMode::Pad);
    let own = processor.processor.clone();
    let content = if pads && !own.pads && own.tiling.is_none() {
        let padded = ImageProcessor { pads: true, ..own };
        format!("{:#}\n", padded.to_json()).into_bytes()
    } else if has_file {
        return Ok(());
    } else {
        processor.file().1
    };
    write(&folder.join(IMAGE_PROCESSOR), &content)?;
    nest_processor(folder)
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(EngineError::io("remove", path)(error)),
        _ => Ok(()),
    }
}
