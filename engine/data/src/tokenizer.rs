//! Tokenization: encodes a prompt as token ids and labels, and decodes ids to text.

mod config;

use std::{fmt, fs, ops::Range, path::Path};

use tokenizers::Tokenizer as Inner;

use crate::{
    error::DataError,
    sample::{IGNORE_INDEX, IMAGE_TOKEN_INDEX},
    template::Prompt,
};
use config::Config;
pub use config::SpecialIds;

/// Prefix of the address of an embedded tokenizer.
const BUILTIN: &str = "builtin:";

/// A Hugging Face tokenizer with the special tokens of its `tokenizer_config.json`.
pub struct Tokenizer {
    inner: Inner,
    name: String,
    special: SpecialIds,
    add_bos: bool,
    unapplied: Vec<String>,
    files: Vec<(String, Vec<u8>)>,
}

/// A tokenized prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids, [`IMAGE_TOKEN_INDEX`] once per image. Shape `[t]`.
    pub ids: Vec<i64>,
    /// The token id where the token is a label, otherwise [`IGNORE_INDEX`]; not shifted. Shape `[t]`.
    pub labels: Vec<i64>,
}

impl Tokenizer {
    /// Opens `builtin:NAME`, a folder with a `tokenizer.json`, or a `tokenizer.json` file.
    ///
    /// # Errors
    /// Returns an error if it does not exist or is not a valid tokenizer.
    pub fn open(address: &str) -> Result<Self, DataError> {
        if let Some(name) = address.strip_prefix(BUILTIN) {
            return Self::builtin(name);
        }
        let path = Path::new(address);
        let file = if path.is_dir() {
            path.join("tokenizer.json")
        } else {
            path.to_owned()
        };
        let json = fs::read(&file).map_err(|error| DataError::Read { path: file.clone(), error })?;
        let config = file.with_file_name("tokenizer_config.json");
        let config = match fs::read(&config) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(DataError::Read { path: config, error }),
        };
        Self::from_bytes(address, &json, config.as_deref())
    }

    /// Returns the tokenizer that is embedded in the program under `name`: `mistral_2k`.
    ///
    /// # Errors
    /// Returns an error if no tokenizer is embedded under this name.
    pub fn builtin(name: &str) -> Result<Self, DataError> {
        match name {
            "mistral_2k" => Self::from_bytes(
                "builtin:mistral_2k",
                include_bytes!("../tokenizers/mistral_2k/tokenizer.json"),
                Some(include_bytes!("../tokenizers/mistral_2k/tokenizer_config.json")),
            ),
            _ => Err(DataError::Tokenizer {
                name: format!("{BUILTIN}{name}"),
                reason: "there is no such built-in tokenizer: use `builtin:mistral_2k`".to_owned(),
            }),
        }
    }

    /// Parses a `tokenizer.json` and its `tokenizer_config.json`. `name` is used in messages.
    ///
    /// # Errors
    /// Returns an error if either one is malformed.
    pub fn from_bytes(name: &str, json: &[u8], config: Option<&[u8]>) -> Result<Self, DataError> {
        let invalid = |reason: String| DataError::Tokenizer {
            name: name.to_owned(),
            reason,
        };
        let mut files = vec![("tokenizer.json".to_owned(), json.to_vec())];
        files.extend(config.map(|bytes| ("tokenizer_config.json".to_owned(), bytes.to_vec())));
        let inner = Inner::from_bytes(json).map_err(|error| invalid(format!("tokenizer.json: {error}")))?;
        let config: Config = match config {
            Some(bytes) => serde_json::from_slice(bytes).map_err(|error| invalid(format!("tokenizer_config.json: {error}")))?,
            None => Config::default(),
        };
        let special = config.special_ids(&inner);
        let add_bos = config.add_bos_token.unwrap_or(true);
        let unapplied = config.unapplied(&inner);
        Ok(Self {
            files,
            inner,
            name: name.to_owned(),
            special,
            add_bos,
            unapplied,
        })
    }

    /// Sets whether prompts start with the begin-of-sequence (BOS) token. By default they do if the tokenizer has one and
    /// its config does not disable it. NeMo's preloaded data has no BOS, although NeMo's generation adds it.
    #[must_use]
    pub fn with_bos(self, add_bos: bool) -> Self {
        Self { add_bos, ..self }
    }

    /// Returns a sentence for each setting of `tokenizer_config.json` that changes ids and is not applied.
    #[must_use]
    pub fn unapplied(&self) -> &[String] {
        &self.unapplied
    }

    /// Returns the names and contents of the tokenizer's files, which a checkpoint stores.
    #[must_use]
    pub fn files(&self) -> Vec<(String, Vec<u8>)> {
        self.files.clone()
    }

    /// Returns the ids of the special tokens.
    #[must_use]
    pub fn special(&self) -> SpecialIds {
        self.special
    }

    /// Returns the size of the vocabulary, including added tokens.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Returns the id of a token.
    #[must_use]
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Encodes a text without adding special tokens.
    ///
    /// # Errors
    /// Returns an error if the tokenizer cannot represent the text.
    pub fn encode(&self, text: &str) -> Result<Vec<i64>, DataError> {
        let encoding = self.inner.encode(text, false).map_err(|error| self.error(&*error))?;
        Ok(encoding.get_ids().iter().map(|&id| i64::from(id)).collect())
    }

    /// Encodes a prompt as token ids and labels.
    ///
    /// The text between two images is tokenized as a whole, so that the ids equal those of the reference. A token is a
    /// label if its span starts within an answer, or starts before it and overlaps it. With Vicuna's template the labels
    /// equal LLaVA's own, except for samples that LLaVA ignores with a "tokenization mismatch" warning.
    ///
    /// # Errors
    /// Returns an error if the tokenizer cannot represent the text.
    pub fn encode_prompt(&self, prompt: &Prompt) -> Result<Encoded, DataError> {
        let mut encoded = Encoded::default();
        let mut start = 0;
        for image in &prompt.images {
            self.encode_chunk(prompt, start..image.start, &mut encoded)?;
            encoded.push(IMAGE_TOKEN_INDEX, false);
            start = image.end;
        }
        self.encode_chunk(prompt, start..prompt.text.len(), &mut encoded)?;
        match self.special.bos.map(i64::from) {
            Some(bos) if self.add_bos && encoded.ids.first() != Some(&bos) => {
                encoded.ids.insert(0, bos);
                encoded.labels.insert(0, IGNORE_INDEX);
            }
            _ => {}
        }
        Ok(encoded)
    }

    fn encode_chunk(&self, prompt: &Prompt, chunk: Range<usize>, encoded: &mut Encoded) -> Result<(), DataError> {
        let text = &prompt.text[chunk.clone()];
        if text.is_empty() {
            return Ok(());
        }
        let encoding = self.inner.encode(text, false).map_err(|error| self.error(&*error))?;
        for (&id, &(start, end)) in encoding.get_ids().iter().zip(encoding.get_offsets()) {
            let (start, end) = (chunk.start + start, chunk.start + end);
            let in_answer = |answer: &Range<usize>| start < answer.end && (start >= answer.start || end > answer.start);
            encoded.push(i64::from(id), prompt.answers.iter().any(in_answer));
        }
        Ok(())
    }

    /// Compares the image token with `index`, its id in the model's `config.json`. This program marks images without a
    /// token, but Hugging Face's processor needs one, so that an exported model could not be used.
    pub fn image_token_problem(&self, index: i64) -> Option<String> {
        match self.special().image {
            Some(found) if i64::from(found) == index => None,
            Some(found) => Some(format!(
                "the image token has the id {found} in tokenizer.json, but {index} in config.json"
            )),
            None => Some(format!(
                "tokenizer.json has no token `<image>`, but it has the id {index} in config.json"
            )),
        }
    }

    /// Decodes token ids to text. Skips image placeholders, and special tokens if `skip_special`.
    ///
    /// # Errors
    /// Returns an error if the tokenizer cannot decode an id.
    pub fn decode(&self, ids: &[i64], skip_special: bool) -> Result<String, DataError> {
        let ids: Vec<u32> = ids.iter().filter_map(|&id| u32::try_from(id).ok()).collect();
        self.inner.decode(&ids, skip_special).map_err(|error| self.error(&*error))
    }

    /// Returns a streaming decoder, which takes ids one by one, for text that is printed during generation. It skips
    /// special tokens.
    pub fn stream(&self) -> impl FnMut(i64) -> Result<Option<String>, DataError> + '_ {
        let mut stream = self.inner.decode_stream(true);
        move |id| match u32::try_from(id) {
            // `None`: the bytes decoded so far end within a character.
            Ok(id) => stream.step(id).map_err(|error| self.error(&*error)),
            Err(_) => Ok(None),
        }
    }

    fn error(&self, error: &(dyn std::error::Error + Send + Sync)) -> DataError {
        DataError::Tokenizer {
            name: self.name.clone(),
            reason: error.to_string(),
        }
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("name", &self.name)
            .field("special", &self.special)
            .finish_non_exhaustive()
    }
}

impl Encoded {
    fn push(&mut self, id: i64, is_label: bool) {
        self.ids.push(id);
        self.labels.push(if is_label { id } else { IGNORE_INDEX });
    }
}
