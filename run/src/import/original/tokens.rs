//! Tokens of images and of padding, which the original LLaVA repository does not have.

use std::path::Path;

use neva_data::{IMAGE_TOKEN, Tokenizer};

use crate::import::ImportError;

/// The padding token, as in llava-hf's models.
const PAD: &str = "<pad>";
/// The number of rows that is added is a multiple of this, as in llava-hf's models: 32000 rows become 32064.
const MULTIPLE: usize = 64;

/// The tokenizer with these tokens.
pub(super) struct Tokens {
    /// Id of the image token.
    pub(super) image: u32,
    /// Id of the padding token.
    pub(super) pad: u32,
    /// Rows of the embedding.
    pub(super) rows: usize,
    /// Files of the tokenizer.
    pub(super) files: Vec<(String, Vec<u8>)>,
}

impl Tokens {
    /// Adds the tokens to the tokenizer of `folder`, for an embedding of `rows` rows.
    pub(super) fn of(folder: &Path, rows: usize) -> Result<Self, ImportError> {
        if Tokenizer::file_in(folder).is_none() {
            return Err(ImportError::Content {
                path: folder.to_owned(),
                problems: vec!["it has no tokenizer: neither tokenizer.json nor tokenizer.model".to_owned()],
                help: Some("copy the tokenizer of the language model there".to_owned()),
            });
        }
        let named = [("image_token", IMAGE_TOKEN), ("pad_token", PAD)];
        let extended = Tokenizer::extended(&folder.display().to_string(), &[IMAGE_TOKEN, PAD], &named);
        let extended = extended.map_err(|error| ImportError::content(folder, error.to_string()))?;
        let needed = extended.rows;
        let ids = (extended.ids.first().copied(), extended.ids.get(1).copied());
        Ok(Self {
            image: ids.0.unwrap_or_default(),
            pad: ids.1.unwrap_or_default(),
            rows: if needed > rows { needed.next_multiple_of(MULTIPLE) } else { rows },
            files: extended.files,
        })
    }
}
