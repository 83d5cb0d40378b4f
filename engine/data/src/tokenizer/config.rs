//! Special tokens, as named by `tokenizer_config.json`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::Tokenizer;

use super::sentencepiece::{AddedToken, Metaspace};

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

/// Fields of `tokenizer_config.json`. A special token is a string, or an object with the field `content`.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Config {
    tokenizer_class: Option<String>,
    /// Treatment of blanks by the tokenizers of Llama and T5; `null` is true, as in transformers.
    legacy: Option<bool>,
    add_prefix_space: Option<bool>,
    pub(super) chat_template: Option<Value>,
    #[serde(default)]
    bos_token: Value,
    #[serde(default)]
    eos_token: Value,
    #[serde(default)]
    pad_token: Value,
    #[serde(default)]
    unk_token: Value,
    #[serde(default)]
    image_token: Value,
    #[serde(default)]
    extra_special_tokens: Value,
    add_bos_token: Option<bool>,
    #[serde(default)]
    add_eos_token: Value,
    #[serde(default)]
    split_special_tokens: Value,
    #[serde(default)]
    added_tokens_decoder: BTreeMap<String, Value>,
}

/// Classes of transformers that add no BOS unless `add_bos_token` says so.
const WITHOUT_BOS: &[&str] = &["GPT2Tokenizer", "Qwen2Tokenizer", "GPTNeoXTokenizer"];

impl Config {
    /// Returns whether the tokenizer puts BOS in front of a text: what `add_bos_token` says, else what the post-processor of
    /// tokenizer.json does, else what its class does, else true.
    pub(super) fn adds_bos(&self, inner: &Tokenizer, bos: Option<u32>) -> bool {
        if let Some(adds) = self.add_bos_token {
            return adds;
        }
        if inner.get_post_processor().is_some() {
            let encoded = inner.encode("", true);
            return bos.is_some() && encoded.is_ok_and(|encoding| encoding.get_ids().first().copied() == bos);
        }
        let class = self.tokenizer_class.as_deref().unwrap_or_default();
        !WITHOUT_BOS.contains(&class.trim_end_matches("Fast"))
    }

    /// Returns how a sentencepiece model treats the start of a text.
    pub(super) fn metaspace(&self) -> Metaspace {
        Metaspace {
            legacy: self.legacy.unwrap_or(true),
            add_prefix_space: self.add_prefix_space,
        }
    }

    /// Returns the tokens of `added_tokens_decoder` by id.
    pub(super) fn added_tokens(&self) -> BTreeMap<u32, AddedToken> {
        let parsed = self.added_tokens_decoder.iter();
        let token = |(id, token): (&String, &Value)| Some((id.parse().ok()?, serde_json::from_value(token.clone()).ok()?));
        parsed.filter_map(token).collect()
    }

    /// Returns the names and contents of the special tokens that chat templates can write.
    pub(super) fn named_tokens(&self) -> Vec<(String, String)> {
        let tokens = [
            ("bos_token", &self.bos_token),
            ("eos_token", &self.eos_token),
            ("unk_token", &self.unk_token),
            ("pad_token", &self.pad_token),
            ("image_token", &self.image_token),
        ];
        let content = |token: &Value| token.as_str().or_else(|| token.get("content")?.as_str()).map(str::to_owned);
        let named = tokens
            .into_iter()
            .filter_map(|(name, token)| Some((name.to_owned(), content(token)?)));
        named.collect()
    }

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
