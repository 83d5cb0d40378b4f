//! Special tokens, as named by `tokenizer_config.json`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::Tokenizer;

/// Ids of the special tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpecialIds {
    /// Begin of sequence.
    pub bos: Option<u32>,
    /// End of sequence.
    pub eos: Option<u32>,
    /// Padding.
    pub pad: Option<u32>,
    /// Image placeholder of Hugging Face's models. (We use [`IMAGE_TOKEN_INDEX`](crate::IMAGE_TOKEN_INDEX) before the merge.)
    pub image: Option<u32>,
}

/// Fields of `tokenizer_config.json` that name special tokens: a string, or an object with the field `content`.
#[derive(Default, Deserialize)]
pub(super) struct Config {
    #[serde(default)]
    bos_token: Value,
    #[serde(default)]
    eos_token: Value,
    #[serde(default)]
    pad_token: Value,
    #[serde(default)]
    image_token: Value,
    #[serde(default)]
    extra_special_tokens: Value,
    pub(super) add_bos_token: Option<bool>,
    #[serde(default)]
    add_eos_token: Value,
    #[serde(default)]
    split_special_tokens: Value,
    #[serde(default)]
    added_tokens_decoder: BTreeMap<String, Value>,
}

impl Config {
    /// Returns a sentence for each setting that changes ids and is not applied.
    pub(super) fn unapplied(&self, inner: &Tokenizer) -> Vec<String> {
        let mut sentences = Vec::new();
        if self.add_eos_token == true {
            sentences.push("`add_eos_token` is true, but the conversation template says where answers end".to_owned());
        }
        if self.split_special_tokens == true {
            sentences.push("`split_special_tokens` is true, but special tokens in a text are kept whole".to_owned());
        }
        for (id, token) in &self.added_tokens_decoder {
            let content = token.get("content").and_then(Value::as_str).unwrap_or_default();
            let known = inner.token_to_id(content);
            if known.map(|id| id.to_string()).as_ref() != Some(id) {
                sentences.push(format!(
                    "`added_tokens_decoder` gives {content:?} the id {id}, but tokenizer.json {}",
                    known.map_or("does not have it".to_owned(), |known| format!("has it as {known}"))
                ));
            }
        }
        sentences
    }

    /// Returns the ids of the tokens named in the config. If it names none, returns those of the usual names.
    pub(super) fn special_ids(&self, inner: &Tokenizer) -> SpecialIds {
        let named = |token: &Value| {
            let content = token.as_str().or_else(|| token.get("content")?.as_str())?;
            inner.token_to_id(content)
        };
        let first = |tokens: &[&str]| tokens.iter().find_map(|token| inner.token_to_id(token));
        // Without a config (all fields null) the usual names apply. With one, a token that it does not name does not exist.
        let bare = [&self.bos_token, &self.eos_token, &self.pad_token]
            .iter()
            .all(|token| token.is_null());
        let or_usual = |id: Option<u32>, usual: &[&str]| if bare { id.or_else(|| first(usual)) } else { id };
        let eos = or_usual(named(&self.eos_token), &["</s>", "<|eot_id|>", "<|im_end|>", "<|end_of_text|>"]);
        SpecialIds {
            bos: or_usual(named(&self.bos_token), &["<s>", "<|begin_of_text|>", "<bos>"]),
            eos,
            pad: or_usual(named(&self.pad_token), &["<pad>", "<unk>"]).or(eos),
            image: named(&self.image_token)
                .or_else(|| named(self.extra_special_tokens.get("image_token")?))
                .or_else(|| first(&["<image>"])),
        }
    }
}
