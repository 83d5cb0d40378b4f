//! Which tokens have a meaning of their own, by `tokenizer_config.json`.

use serde::Deserialize;
use serde_json::Value;
use tokenizers::Tokenizer;

/// Token ids with a meaning of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpecialIds {
    /// Begin of sequence.
    pub bos: Option<u32>,
    /// End of sequence.
    pub eos: Option<u32>,
    /// Padding.
    pub pad: Option<u32>,
    /// The picture placeholder of Hugging Face's models (we use [`IMAGE`](crate::IMAGE) until the merge).
    pub image: Option<u32>,
}

/// The fields of `tokenizer_config.json` that name tokens: a string, or an object with its `content`.
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
}

impl Config {
    /// The ids of the tokens named here, and of the usual ones where nothing is named.
    pub(super) fn special_ids(&self, inner: &Tokenizer) -> SpecialIds {
        let named = |token: &Value| {
            let content = token.as_str().or_else(|| token.get("content")?.as_str())?;
            inner.token_to_id(content)
        };
        let first = |tokens: &[&str]| tokens.iter().find_map(|token| inner.token_to_id(token));
        // Without a config (all fields null), the usual names; with one, what it leaves out does not exist.
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
