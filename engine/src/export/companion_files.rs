//! Files beside the weights, copied from the base, from the checkpoints on the way, and from the run.

use super::files::copy;
use super::image_processor::{IMAGE_PROCESSOR, PROCESSOR, nest_processor};
use super::source::Source;
use crate::checkpoint::{Base, CheckpointFolder, ModelCache, write_file};
use crate::error::{EngineError, Result};
use neva_data::{ImageProcessor, ModelProcessor};
use std::path::{Path, PathBuf};

/// The file of settings of generation.
pub(super) const GENERATION: &str = "generation_config.json";

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
            write_file(&folder.join(name), &content)?;
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

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(EngineError::io("remove", path)(error)),
        _ => Ok(()),
    }
}
