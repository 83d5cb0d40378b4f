//! Adds special tokens to the files of a tokenizer.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tokenizers::Tokenizer as Inner;

use super::{Tokenizer, files::Files};
use crate::error::DataError;

/// Files of a tokenizer with further tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct ExtendedTokenizer {
    /// Names and contents of the files.
    pub files: Vec<(String, Vec<u8>)>,
    /// Ids of the tokens, in the order of their names.
    pub ids: Vec<u32>,
    /// Largest id, plus one.
    pub rows: usize,
}

impl Tokenizer {
    /// Adds special `tokens` to the tokenizer of a folder: each that it lacks gets the next free id. Its files then have a
    /// `tokenizer.json`, also where the folder has a sentencepiece model. `named` are fields of `tokenizer_config.json`.
    ///
    /// # Errors
    /// Returns an error if the folder has no valid tokenizer.
    pub fn extended(address: &str, tokens: &[&str], named: &[(&str, &str)]) -> Result<ExtendedTokenizer, DataError> {
        let files = Files::read(address)?;
        let invalid = |reason: String| DataError::Tokenizer {
            name: address.to_owned(),
            reason,
        };
        let inner = Inner::from_bytes(&files.json).map_err(|error| invalid(format!("tokenizer.json: {error}")))?;
        let mut json: Value = serde_json::from_slice(&files.json).map_err(|error| invalid(format!("tokenizer.json: {error}")))?;
        let used = inner.get_vocab(true).into_values().max().map_or(0, |id| id + 1);
        let (mut next, mut ids, mut added) = (used, Vec::new(), BTreeMap::new());
        for token in tokens {
            let id = inner.token_to_id(token).unwrap_or_else(|| {
                next += 1;
                added.insert(next - 1, *token);
                next - 1
            });
            ids.push(id);
        }
        let entry = |content: &str| {
            json!({
                "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                "special": true,
            })
        };
        let mut config = files.stored.iter().find(|(name, _)| name == "tokenizer_config.json").map_or_else(
            || Ok(json!({})),
            |(_, bytes)| serde_json::from_slice::<Value>(bytes).map_err(|error| invalid(format!("tokenizer_config.json: {error}"))),
        )?;
        for (id, token) in &added {
            let mut token = entry(token);
            if config["added_tokens_decoder"].is_object() {
                config["added_tokens_decoder"][id.to_string()] = token.clone();
            }
            token["id"] = json!(id);
            match json["added_tokens"].as_array_mut() {
                Some(list) => list.push(token),
                None => json["added_tokens"] = json!([token]),
            }
        }
        for (name, value) in named {
            config[*name] = json!(value);
        }
        let mut stored = vec![
            ("tokenizer.json".to_owned(), json.to_string().into_bytes()),
            ("tokenizer_config.json".to_owned(), format!("{config:#}\n").into_bytes()),
        ];
        let others = files
            .stored
            .into_iter()
            .filter(|(name, _)| !stored.iter().any(|(own, _)| own == name));
        // `added_tokens.json` has the old tokens only; tokenizer.json has all of them.
        let others: Vec<_> = others.filter(|(name, _)| name != "added_tokens.json").collect();
        stored.extend(others);
        Ok(ExtendedTokenizer {
            files: stored,
            ids,
            rows: next as usize,
        })
    }
}
