//! Tokenization: encodes a prompt as token ids and labels, and decodes ids to text.

mod config;
mod encoded;
mod encoder;
mod extension;
mod files;
mod gguf;
mod merges;
mod sentencepiece;

use std::{
    fmt,
    path::{Path, PathBuf},
};

use tokenizers::Tokenizer as Inner;

use crate::error::DataError;
pub use config::SpecialIds;
pub use encoded::{Encoded, ImageText};
pub use extension::ExtendedTokenizer;
use files::Files;
pub use gguf::GgufTokenizer;

/// Prefix of the address of an embedded tokenizer.
const BUILTIN: &str = "builtin:";

/// A Hugging Face tokenizer with the special tokens of its `tokenizer_config.json`, or a sentencepiece model.
pub struct Tokenizer {
    /// Decodes ids and knows all tokens.
    inner: Inner,
    /// Encodes texts. `None`: `inner` does.
    encoder: Option<Inner>,
    name: String,
    special: SpecialIds,
    named: Vec<(String, String)>,
    chat_template: Option<String>,
    add_bos: bool,
    image_text: ImageText,
    unapplied: Vec<String>,
    files: Vec<(String, Vec<u8>)>,
}

impl Tokenizer {
    /// Opens `builtin:NAME`, a folder, or a file. A folder has a `tokenizer.json`, or a sentencepiece model
    /// (`tokenizer.model`, `spiece.model`, `sentencepiece.bpe.model`); a file is one of these.
    ///
    /// # Errors
    /// Returns an error if it does not exist or is not a valid tokenizer.
    pub fn open(address: &str) -> Result<Self, DataError> {
        if let Some(name) = address.strip_prefix(BUILTIN) {
            return Self::builtin(name);
        }
        Self::of_files(address, Files::read(address)?)
    }

    /// Returns the tokenizer's file in `folder`: `tokenizer.json`, else a sentencepiece model.
    #[must_use]
    pub fn file_in(folder: &Path) -> Option<PathBuf> {
        files::in_folder(folder)
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
        Self::of_files(name, Files::of_json(name, json, config)?)
    }

    fn of_files(name: &str, files: Files) -> Result<Self, DataError> {
        let invalid = |error: &dyn fmt::Display| DataError::Tokenizer {
            name: name.to_owned(),
            reason: format!("tokenizer.json: {error}"),
        };
        let mut inner = Inner::from_bytes(&files.json).map_err(|error| invalid(&error))?;
        // Trainers leave these settings in the file, and transformers resets them: they would cut or fill every sample.
        inner.with_truncation(None).map_err(|error| invalid(&error))?.with_padding(None);
        let special = files.config.special_ids(&inner);
        Ok(Self {
            encoder: encoder::encoder(&inner, false).map_err(|error| invalid(&error))?,
            name: name.to_owned(),
            special,
            named: files.config.named_tokens(),
            chat_template: files.chat_template,
            add_bos: files.config.adds_bos(&inner, special.bos),
            image_text: ImageText::default(),
            unapplied: files.config.unapplied(&inner),
            files: files.stored,
            inner,
        })
    }

    /// Sets whether prompts start with the begin-of-sequence (BOS) token. By default they do if the tokenizer adds one to a
    /// text: see [`adds_bos`](Self::adds_bos). NeMo's preloaded data has no BOS, although NeMo's generation adds it.
    #[must_use]
    pub fn with_bos(self, add_bos: bool) -> Self {
        Self { add_bos, ..self }
    }

    /// Returns whether prompts start with BOS. Unless set, it is what `add_bos_token` in `tokenizer_config.json` says, else
    /// what the post-processor of `tokenizer.json` does, else true.
    #[must_use]
    pub fn adds_bos(&self) -> bool {
        self.add_bos && self.special.bos.is_some()
    }

    /// Sets the tokenization of the text around images.
    ///
    /// # Errors
    /// Returns an error if the tokenizer cannot take a token for images.
    pub fn with_image_text(self, image_text: ImageText) -> Result<Self, DataError> {
        let encoder = encoder::encoder(&self.inner, image_text == ImageText::HuggingFace);
        let encoder = encoder.map_err(|error| self.error(&*error))?;
        Ok(Self {
            encoder,
            image_text,
            ..self
        })
    }

    /// Returns the path or `builtin:NAME` that the tokenizer was opened with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the Jinja template of conversations in the tokenizer's files.
    #[must_use]
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// Returns the names and contents of the special tokens that chat templates can write, such as `bos_token` and `<s>`.
    #[must_use]
    pub fn named_tokens(&self) -> &[(String, String)] {
        &self.named
    }

    /// Returns the contents of all special tokens, by id.
    #[must_use]
    pub fn special_tokens(&self) -> Vec<String> {
        let mut tokens: Vec<_> = self.inner.get_added_tokens_decoder().into_iter().collect();
        tokens.sort_by_key(|token| token.0);
        let special = tokens.into_iter().filter(|(_, token)| token.special);
        special.map(|(_, token)| token.content).collect()
    }

    /// Returns whether the tokenizer has `text` as one token that it finds in texts.
    #[must_use]
    pub fn is_one_token(&self, text: &str) -> bool {
        self.encode(text).is_ok_and(|ids| ids.len() == 1)
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

    /// Encodes a text without adding special tokens. `<image>` in it is text.
    ///
    /// # Errors
    /// Returns an error if the tokenizer cannot represent the text.
    pub fn encode(&self, text: &str) -> Result<Vec<i64>, DataError> {
        let encoding = self.encoder().encode(text, false).map_err(|error| self.error(&*error))?;
        Ok(encoding.get_ids().iter().map(|&id| i64::from(id)).collect())
    }

    fn encoder(&self) -> &Inner {
        self.encoder.as_ref().unwrap_or(&self.inner)
    }

    /// Compares the image token with `index`, its id in the model's `config.json`. This program marks images without a
    /// token, but Hugging Face's processor needs one, so that an exported model could not be used.
    pub fn image_token_problem(&self, index: i64) -> Option<String> {
        match self.special().image {
            Some(found) if i64::from(found) == index => None,
            Some(found) => Some(format!(
                "the image token has the id {found} in the tokenizer, but {index} in config.json"
            )),
            None => Some(format!(
                "the tokenizer has no token `<image>`, but it has the id {index} in config.json"
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
