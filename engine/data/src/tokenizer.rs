//! From a prompt to token ids and labels, and back from ids to text.

mod config;

use std::{fmt, fs, ops::Range, path::Path};

use tokenizers::Tokenizer as Inner;

use crate::{
    error::DataError,
    sample::{IGNORE, IMAGE},
    template::Prompt,
};
use config::Config;
pub use config::SpecialIds;

/// Prefix of an address that names an embedded tokenizer.
const BUILTIN: &str = "builtin:";

/// A Hugging Face tokenizer with the special tokens of its `tokenizer_config.json`.
pub struct Tokenizer {
    inner: Inner,
    name: String,
    special: SpecialIds,
    add_bos: bool,
    files: Vec<(String, Vec<u8>)>,
}

/// A tokenized prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids, [`IMAGE`] once per picture. Shape `[t]`.
    pub ids: Vec<i64>,
    /// The id where it is to be learnt, else [`IGNORE`]; not shifted. Shape `[t]`.
    pub labels: Vec<i64>,
}

impl Tokenizer {
    /// Opens `builtin:NAME`, a folder that holds `tokenizer.json`, or such a file.
    ///
    /// # Errors
    /// When there is none, or it cannot be read as one.
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

    /// The tokenizer that is embedded in the program under `name`: `mistral_2k`.
    ///
    /// # Errors
    /// When no such one is embedded.
    pub fn builtin(name: &str) -> Result<Self, DataError> {
        match name {
            "mistral_2k" => Self::from_bytes(
                "builtin:mistral_2k",
                include_bytes!("../tokenizers/mistral_2k/tokenizer.json"),
                Some(include_bytes!("../tokenizers/mistral_2k/tokenizer_config.json")),
            ),
            _ => Err(DataError::Tokenizer {
                name: format!("{BUILTIN}{name}"),
                reason: "no such tokenizer is built in: `builtin:mistral_2k` is".to_owned(),
            }),
        }
    }

    /// Reads a `tokenizer.json` and its `tokenizer_config.json`. `name` is for messages.
    ///
    /// # Errors
    /// When either is malformed.
    pub fn from_bytes(name: &str, json: &[u8], config: Option<&[u8]>) -> Result<Self, DataError> {
        let refuse = |reason: String| DataError::Tokenizer {
            name: name.to_owned(),
            reason,
        };
        let mut files = vec![("tokenizer.json".to_owned(), json.to_vec())];
        files.extend(config.map(|bytes| ("tokenizer_config.json".to_owned(), bytes.to_vec())));
        let inner = Inner::from_bytes(json).map_err(|error| refuse(format!("tokenizer.json: {error}")))?;
        let config: Config = match config {
            Some(bytes) => serde_json::from_slice(bytes).map_err(|error| refuse(format!("tokenizer_config.json: {error}")))?,
            None => Config::default(),
        };
        let special = config.special_ids(&inner);
        let add_bos = config.add_bos_token.unwrap_or(true);
        Ok(Self {
            files,
            inner,
            name: name.to_owned(),
            special,
            add_bos,
        })
    }

    /// Whether prompts start with the begin-of-sequence token. By default they do if the tokenizer has one and its
    /// config does not say otherwise; NeMo's preloaded data has none, which its own generation disagrees with.
    #[must_use]
    pub fn with_bos(self, add_bos: bool) -> Self {
        Self { add_bos, ..self }
    }

    /// The files that it was made of, by name: a checkpoint keeps them.
    #[must_use]
    pub fn files(&self) -> Vec<(String, Vec<u8>)> {
        self.files.clone()
    }

    /// Tokens with a meaning of their own.
    #[must_use]
    pub fn special(&self) -> SpecialIds {
        self.special
    }

    /// Entries of the vocabulary, added ones included.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The id of a token.
    #[must_use]
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Token ids of a text, nothing added.
    ///
    /// # Errors
    /// When the tokenizer cannot represent the text.
    pub fn encode(&self, text: &str) -> Result<Vec<i64>, DataError> {
        let encoding = self.inner.encode(text, false).map_err(|error| self.refuse(&*error))?;
        Ok(encoding.get_ids().iter().map(|&id| i64::from(id)).collect())
    }

    /// Token ids and labels of a prompt. The text between two pictures is tokenized as one piece, so that ids are those
    /// of the reference; a token is learnt if its span begins in an answer or reaches into one from before. On Vicuna's
    /// template the labels are LLaVA's own, wherever LLaVA does not give the sample up ("tokenization mismatch").
    ///
    /// # Errors
    /// When the tokenizer cannot represent the text.
    pub fn encode_prompt(&self, prompt: &Prompt) -> Result<Encoded, DataError> {
        let mut encoded = Encoded::default();
        let mut start = 0;
        for image in &prompt.images {
            self.encode_chunk(prompt, start..image.start, &mut encoded)?;
            encoded.push(IMAGE, false);
            start = image.end;
        }
        self.encode_chunk(prompt, start..prompt.text.len(), &mut encoded)?;
        match self.special.bos.map(i64::from) {
            Some(bos) if self.add_bos && encoded.ids.first() != Some(&bos) => {
                encoded.ids.insert(0, bos);
                encoded.labels.insert(0, IGNORE);
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
        let encoding = self.inner.encode(text, false).map_err(|error| self.refuse(&*error))?;
        for (&id, &(start, end)) in encoding.get_ids().iter().zip(encoding.get_offsets()) {
            let (start, end) = (chunk.start + start, chunk.start + end);
            let learnt = |answer: &Range<usize>| start < answer.end && (start >= answer.start || end > answer.start);
            encoded.push(i64::from(id), prompt.answers.iter().any(learnt));
        }
        Ok(())
    }

    /// The text of some ids. Placeholders are skipped, special tokens too if `skip_special`.
    ///
    /// # Errors
    /// When an id is beyond what the tokenizer can decode.
    pub fn decode(&self, ids: &[i64], skip_special: bool) -> Result<String, DataError> {
        let ids: Vec<u32> = ids.iter().filter_map(|&id| u32::try_from(id).ok()).collect();
        self.inner.decode(&ids, skip_special).map_err(|error| self.refuse(&*error))
    }

    /// A decoder that takes ids one by one, for text that is shown while it is generated. Special tokens are skipped.
    pub fn stream(&self) -> impl FnMut(i64) -> Result<Option<String>, DataError> + '_ {
        let mut stream = self.inner.decode_stream(true);
        move |id| match u32::try_from(id) {
            // `None`: the bytes so far do not end at a character.
            Ok(id) => stream.step(id).map_err(|error| self.refuse(&*error)),
            Err(_) => Ok(None),
        }
    }

    fn refuse(&self, error: &(dyn std::error::Error + Send + Sync)) -> DataError {
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
    fn push(&mut self, id: i64, learnt: bool) {
        self.ids.push(id);
        self.labels.push(if learnt { id } else { IGNORE });
    }
}
