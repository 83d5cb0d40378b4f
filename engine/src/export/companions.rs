//! Files beside the weights, so that the export can be loaded without the base: tokenizer, chat template, processor,
//! image processor, generation config.

use super::companion_files::{GENERATION, collect, root};
use super::config;
use super::files::write_json;
use super::generation::generation_config;
use super::image_processor::{PROCESSOR, data_config, image_processor};
use super::source::Source;
use super::tokenizer_files::{TokenIds, TokenizerFiles};
use crate::checkpoint::{Base, ModelCache, read_json, write_file};
use crate::error::Result;
use neva_data::{IMAGE_TOKEN, TextTools, Tokenizer};
use neva_layout::ModelTable;
use serde_json::Value;
use std::path::Path;

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
        write_file(&folder.join(name), &content)?;
    }
    Ok(Tokenizer::open(&address)?)
}
