//! Checks of a folder before its import.

use std::path::Path;

use neva_data::{ImageProcessor, Tokenizer};
use neva_layout::{Families, families::FolderModel, unapplied_model_settings};
use serde_json::Value;

use super::{ImportError, header, size_of};
use crate::hub::{CONFIG, INDEX, TOOLS, WEIGHTS, shards};

/// A folder with a complete model.
pub(super) struct Checked {
    pub(super) model: FolderModel,
    /// Names of the files that the model needs.
    pub(super) files: Vec<String>,
    pub(super) bytes: u64,
    pub(super) parameters: u64,
    pub(super) warnings: Vec<String>,
}

/// Checks a folder: its config, its files, the name and shape of each tensor, and the tokenizer.
///
/// # Errors
/// All problems of the folder.
pub(super) fn folder(path: &Path) -> Result<Checked, ImportError> {
    let file = path.join(CONFIG);
    let text = std::fs::read(&file).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => ImportError::Content {
            path: path.to_owned(),
            problems: vec![format!("there is no {CONFIG}")],
            help: Some(format!("name the folder with {CONFIG} and *.safetensors")),
        },
        _ => ImportError::io("read", &file, source),
    })?;
    let config: Value = serde_json::from_slice(&text).map_err(|error| ImportError::content(&file, format!("not JSON: {error}")))?;
    let model = Families::builtin()
        .folder_model(&config)
        .map_err(|error| ImportError::content(&file, error.to_string()))?;
    let mut warnings = unapplied_model_settings(&config);
    let weights = weight_files(path)?;
    let mut tensors = Vec::new();
    for name in &weights {
        tensors.extend(header::tensors(&path.join(name))?);
    }
    let (mut problems, foreign) = model.check(tensors.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())));
    if let Some((first, rest)) = foreign.split_first() {
        let more = if rest.is_empty() {
            String::new()
        } else {
            format!(" and {} more", rest.len())
        };
        warnings.push(format!("`{first}`{more} belong to no part of the model and are ignored"));
    }
    problems.extend(tokenizer(path, &model));
    let processor = path.join("preprocessor_config.json");
    if processor.is_file()
        && let Err(error) = ImageProcessor::open(&processor)
    {
        warnings.push(format!("{error}: name another in finetune.data.image_processor"));
    }
    if !problems.is_empty() {
        return Err(ImportError::Content {
            path: path.to_owned(),
            problems,
            help: Some(format!(
                "the files do not belong to this {CONFIG}, or some are missing: download or copy the model again"
            )),
        });
    }
    let mut files = vec![CONFIG.to_owned()];
    let beside = TOOLS.iter().copied().chain(["generation_config.json"]);
    files.extend(beside.filter(|name| path.join(name).is_file()).map(str::to_owned));
    if !weights.iter().any(|name| name == WEIGHTS) {
        files.push(INDEX.to_owned());
    }
    files.extend(weights);
    let mut bytes = 0;
    for name in &files {
        bytes += size_of(&path.join(name))?;
    }
    let count = |shape: &[usize]| shape.iter().map(|size| *size as u64).product::<u64>();
    let parameters = model.parameters().iter().map(|row| count(&row.shape)).sum();
    Ok(Checked {
        model,
        files,
        bytes,
        parameters,
        warnings,
    })
}

/// Returns the names of the files with the weights.
fn weight_files(path: &Path) -> Result<Vec<String>, ImportError> {
    if path.join(WEIGHTS).is_file() {
        return Ok(vec![WEIGHTS.to_owned()]);
    }
    let index = path.join(INDEX);
    if !index.is_file() {
        return Err(ImportError::Content {
            path: path.to_owned(),
            problems: vec![format!("it has neither {WEIGHTS} nor {INDEX}")],
            help: Some("only safetensors are read, because pickles can run code".to_owned()),
        });
    }
    let names = shards(&index).ok_or_else(|| ImportError::content(&index, "it has no valid `weight_map`"))?;
    let missing: Vec<_> = names.iter().filter(|name| !path.join(name).is_file()).cloned().collect();
    if let Some((first, rest)) = missing.split_first() {
        let more = if rest.is_empty() {
            String::new()
        } else {
            format!(" and {} more", rest.len())
        };
        return Err(ImportError::Content {
            path: index,
            problems: vec![format!("it names {first}{more}, which does not exist")],
            help: Some("a file is missing: download or copy the model again".to_owned()),
        });
    }
    Ok(names.into_iter().collect())
}

/// Returns the problems of the model's tokenizer.
fn tokenizer(path: &Path, model: &FolderModel) -> Vec<String> {
    let decoder = model.table.description.decoder.as_ref();
    let (true, Some(decoder)) = (model.has_decoder() && Tokenizer::file_in(path).is_some(), decoder) else {
        return Vec::new();
    };
    let tokenizer = match Tokenizer::open(&path.display().to_string()) {
        Ok(tokenizer) => tokenizer,
        Err(error) => return vec![error.to_string()],
    };
    let mut problems = Vec::new();
    let (tokens, rows) = (tokenizer.vocab_size(), decoder.config.vocab_size);
    if tokens > rows {
        problems.push(format!("the tokenizer has {tokens} tokens, but the embedding has only {rows} rows"));
    }
    problems.extend(model.image_token.and_then(|index| tokenizer.image_token_problem(index)));
    problems
}
