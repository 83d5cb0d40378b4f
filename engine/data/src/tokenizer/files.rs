//! Files of a tokenizer: which ones a folder has, and which one is read.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{config::Config, sentencepiece};
use crate::error::DataError;

/// Names under which the folders of models have a sentencepiece model.
const SENTENCEPIECE: &[&str] = &["tokenizer.model", "spiece.model", "sentencepiece.bpe.model"];

/// Contents of a tokenizer's files.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// `tokenizer.json`, read or converted.
    pub(super) json: Vec<u8>,
    pub(super) config: Config,
    /// Chat template: that of `chat_template.jinja`, else of `chat_template.json`, else of `tokenizer_config.json`.
    pub(super) chat_template: Option<String>,
    /// Names and contents to store in a checkpoint.
    pub(super) stored: Vec<(String, Vec<u8>)>,
}

impl Files {
    /// Reads the files of a folder, or of the folder around a `tokenizer.json` or `*.model`.
    pub(super) fn read(address: &str) -> Result<Self, DataError> {
        let path = Path::new(address);
        let file = if path.is_dir() {
            // Without any of the files, the error names the usual one.
            in_folder(path).unwrap_or_else(|| path.join("tokenizer.json"))
        } else {
            path.to_owned()
        };
        let bytes = fs::read(&file).map_err(|error| DataError::Read { path: file.clone(), error })?;
        let beside = |name: &str| optional(file.with_file_name(name));
        let config = beside("tokenizer_config.json")?;
        let added = beside("added_tokens.json")?;
        let templates = [beside("chat_template.jinja")?, beside("chat_template.json")?];
        let mut files = if file.extension().is_some_and(|extension| extension == "model") {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let mut files = Self::of_sentencepiece(address, &bytes, config.as_deref(), added.as_deref())?;
            files.stored.push((name, bytes));
            files.stored.extend(added.map(|bytes| ("added_tokens.json".to_owned(), bytes)));
            files
        } else {
            Self::of_json(address, &bytes, config.as_deref())?
        };
        let [jinja, json] = templates;
        if let Some(bytes) = jinja {
            files.chat_template = Some(text(address, "chat_template.jinja", &bytes)?);
            files.stored.push(("chat_template.jinja".to_owned(), bytes));
        } else if let Some(bytes) = json {
            let value: Value = parse(address, "chat_template.json", &bytes)?;
            files.chat_template = value.get("chat_template").and_then(default_template).or(files.chat_template);
            files.stored.push(("chat_template.json".to_owned(), bytes));
        }
        Ok(files)
    }

    /// Parses a `tokenizer.json` and its `tokenizer_config.json`.
    pub(super) fn of_json(address: &str, json: &[u8], config: Option<&[u8]>) -> Result<Self, DataError> {
        let mut stored = vec![("tokenizer.json".to_owned(), json.to_vec())];
        stored.extend(config.map(|bytes| ("tokenizer_config.json".to_owned(), bytes.to_vec())));
        let config: Config = match config {
            Some(bytes) => parse(address, "tokenizer_config.json", bytes)?,
            None => Config::default(),
        };
        Ok(Self {
            json: json.to_vec(),
            chat_template: config.chat_template.as_ref().and_then(default_template),
            config,
            stored,
        })
    }

    /// Converts a sentencepiece model to a `tokenizer.json`.
    fn of_sentencepiece(address: &str, model: &[u8], config: Option<&[u8]>, added: Option<&[u8]>) -> Result<Self, DataError> {
        let parsed: Config = match config {
            Some(bytes) => parse(address, "tokenizer_config.json", bytes)?,
            None => Config::default(),
        };
        let mut tokens = parsed.added_tokens();
        if let Some(bytes) = added {
            let named: std::collections::BTreeMap<String, u32> = parse(address, "added_tokens.json", bytes)?;
            for (content, id) in named {
                tokens.entry(id).or_insert_with(|| sentencepiece::AddedToken::named(content));
            }
        }
        let json = sentencepiece::tokenizer_json(model, parsed.metaspace(), &tokens).map_err(|reason| DataError::Tokenizer {
            name: address.to_owned(),
            reason,
        })?;
        Self::of_json(address, json.to_string().as_bytes(), config)
    }
}

/// Returns the file to read in a folder.
pub(super) fn in_folder(folder: &Path) -> Option<PathBuf> {
    let names = std::iter::once(&"tokenizer.json").chain(SENTENCEPIECE);
    names.map(|name| folder.join(name)).find(|path| path.is_file())
}

fn optional(path: PathBuf) -> Result<Option<Vec<u8>>, DataError> {
    match fs::read(&path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(DataError::Read { path, error }),
    }
}

fn parse<T: serde::de::DeserializeOwned>(address: &str, file: &str, bytes: &[u8]) -> Result<T, DataError> {
    serde_json::from_slice(bytes).map_err(|error| DataError::Tokenizer {
        name: address.to_owned(),
        reason: format!("{file}: {error}"),
    })
}

fn text(address: &str, file: &str, bytes: &[u8]) -> Result<String, DataError> {
    String::from_utf8(bytes.to_vec()).map_err(|error| DataError::Tokenizer {
        name: address.to_owned(),
        reason: format!("{file}: {error}"),
    })
}

/// Returns a chat template: a text, or the one called `default` of a list of `{"name", "template"}`.
fn default_template(value: &Value) -> Option<String> {
    let of_list = |list: &Vec<Value>| {
        let entry = list
            .iter()
            .find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"))?;
        entry.get("template")?.as_str().map(str::to_owned)
    };
    value.as_str().map(str::to_owned).or_else(|| of_list(value.as_array()?))
}
