//! The tokenizer in the metadata of a GGUF file, as the files of a Hugging Face folder.

use serde_json::{Map, Value, json};

use super::sentencepiece;

/// Types of tokens, those of sentencepiece.
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// Words of GPT-2.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Words of Llama 3; `{digits}` is the number of digits in one word.
const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{digits}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// The tokenizer of a GGUF file, named as in its metadata, `tokenizer.ggml.*`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GgufTokenizer<'a> {
    /// `llama`, a sentencepiece model with scores, or `gpt2`, byte-level BPE with merges.
    pub model: &'a str,
    /// The rule that splits texts into words before BPE.
    pub pre: Option<&'a str>,
    /// The tokens, by id.
    pub tokens: Vec<&'a str>,
    /// Their types; empty: all are normal.
    pub token_type: Vec<i64>,
    /// Their scores.
    pub scores: Vec<f32>,
    /// Merges, the first one before the others: two tokens with a blank between them.
    pub merges: Vec<&'a str>,
    /// Id of the begin-of-sequence token.
    pub bos: Option<usize>,
    /// Id of the end-of-sequence token.
    pub eos: Option<usize>,
    /// Id of the token of unknown characters.
    pub unknown: Option<usize>,
    /// Id of the padding token.
    pub padding: Option<usize>,
    /// A text begins with BOS.
    pub add_bos: Option<bool>,
    /// A text ends with EOS.
    pub add_eos: Option<bool>,
    /// A text gets a blank in front.
    pub add_space_prefix: Option<bool>,
    /// The chat template.
    pub chat_template: Option<&'a str>,
}

impl GgufTokenizer<'_> {
    /// Returns names and contents of `tokenizer.json` and `tokenizer_config.json`.
    ///
    /// # Errors
    /// Returns the reason if the tokenizer is incomplete, or of a kind that is not read.
    pub fn files(&self) -> Result<Vec<(String, Vec<u8>)>, String> {
        let count = self.tokens.len();
        if count == 0 {
            return Err("the metadata have no tokens: `tokenizer.ggml.tokens`".to_owned());
        }
        if !matches!(self.token_type.len(), 0) && self.token_type.len() != count {
            return Err(format!(
                "`tokenizer.ggml.token_type` has {} values for {count} tokens",
                self.token_type.len()
            ));
        }
        let ids = [
            ("bos", self.bos),
            ("eos", self.eos),
            ("unknown", self.unknown),
            ("padding", self.padding),
        ];
        if let Some((name, Some(id))) = ids.into_iter().find(|(_, id)| id.is_some_and(|id| id >= count)) {
            return Err(format!("`tokenizer.ggml.{name}_token_id` is {id}, but there are {count} tokens"));
        }
        let mut tokenizer = match self.model {
            "llama" => self.sentencepiece()?,
            "gpt2" => self.byte_level()?,
            other => {
                return Err(format!(
                    "`tokenizer.ggml.model` is {other:?}: read are \"llama\" (sentencepiece) and \"gpt2\" (byte-level BPE)"
                ));
            }
        };
        let adds_bos = self.adds_bos();
        if let Some(bos) = self.bos.filter(|_| adds_bos) {
            let token = self.tokens[bos];
            tokenizer["post_processor"] = json!({
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [
                    {"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                    {"Sequence": {"id": "B", "type_id": 1}},
                ],
                "special_tokens": {token: {"id": token, "ids": [bos], "tokens": [token]}},
            });
        }
        let mut config = Map::from_iter([
            ("tokenizer_class".to_owned(), json!("PreTrainedTokenizerFast")),
            // That class would also return `token_type_ids`, which `generate()` of transformers 4 refuses.
            ("model_input_names".to_owned(), json!(["input_ids", "attention_mask"])),
            ("add_bos_token".to_owned(), json!(adds_bos)),
            ("add_eos_token".to_owned(), json!(self.add_eos.unwrap_or(false))),
            ("clean_up_tokenization_spaces".to_owned(), json!(false)),
        ]);
        for (name, id) in [("bos", self.bos), ("eos", self.eos), ("unk", self.unknown), ("pad", self.padding)] {
            if let Some(id) = id {
                config.insert(format!("{name}_token"), json!(self.tokens[id]));
            }
        }
        if let Some(template) = self.chat_template {
            config.insert("chat_template".to_owned(), json!(template));
        }
        let config = format!("{:#}\n", Value::Object(config));
        Ok(vec![
            ("tokenizer.json".to_owned(), tokenizer.to_string().into_bytes()),
            ("tokenizer_config.json".to_owned(), config.into_bytes()),
        ])
    }

    /// Without a word in the file, sentencepiece models and Llama 3 begin with BOS.
    fn adds_bos(&self) -> bool {
        let usual = self.model == "llama" || matches!(self.pre, Some("llama-bpe" | "llama3" | "llama-v3"));
        self.bos.is_some() && self.add_bos.unwrap_or(usual)
    }

    fn sentencepiece(&self) -> Result<Value, String> {
        if self.scores.len() != self.tokens.len() {
            let (scores, tokens) = (self.scores.len(), self.tokens.len());
            return Err(format!("`tokenizer.ggml.scores` has {scores} values for {tokens} tokens"));
        }
        let pieces: Vec<_> = (0..self.tokens.len())
            .map(|id| {
                let kind = self.token_type.get(id).map_or(1, |kind| i32::try_from(*kind).unwrap_or(1));
                (self.tokens[id], self.scores[id], kind)
            })
            .collect();
        sentencepiece::of_pieces(&pieces, self.add_space_prefix.unwrap_or(true))
    }

    fn byte_level(&self) -> Result<Value, String> {
        let byte_level =
            |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
        let split = |pattern: &str| {
            let split = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
            json!({"type": "Sequence", "pretokenizers": [split, byte_level(false)]})
        };
        let (mut normalizer, mut ignore_merges) = (Value::Null, false);
        let words = match self.pre {
            None | Some("default" | "gpt-2" | "gpt2") => split(GPT2),
            Some("smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone") => {
                let digits = json!({"type": "Digits", "individual_digits": true});
                json!({"type": "Sequence", "pretokenizers": [digits, byte_level(true)]})
            }
            Some("llama-bpe" | "llama3" | "llama-v3") => {
                ignore_merges = true;
                split(&LLAMA3.replace("{digits}", "{1,3}"))
            }
            Some("qwen2" | "deepseek-r1-qwen") => {
                normalizer = json!({"type": "NFC"});
                split(&LLAMA3.replace("{digits}", ""))
            }
            Some(other) => {
                return Err(format!(
                    "`tokenizer.ggml.pre` is {other:?}: read are \"gpt-2\", \"smollm\", \"llama-bpe\" and \"qwen2\", \
                     and others with the same rules"
                ));
            }
        };
        if self.merges.is_empty() || self.merges.iter().any(|merge| merge.split(' ').count() != 2) {
            return Err("`tokenizer.ggml.merges` are not pairs of tokens".to_owned());
        }
        let vocabulary: Map<String, Value> = self
            .tokens
            .iter()
            .enumerate()
            .map(|(id, token)| ((*token).to_owned(), id.into()))
            .collect();
        let added = self.token_type.iter().enumerate().filter_map(|(id, kind)| {
            let special = match *kind {
                CONTROL | UNKNOWN => true,
                USER_DEFINED => false,
                _ => return None,
            };
            Some(json!({
                "id": id, "content": self.tokens[id], "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": special,
            }))
        });
        Ok(json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": added.collect::<Vec<_>>(),
            "normalizer": normalizer,
            "pre_tokenizer": words,
            "post_processor": null,
            "decoder": byte_level(true),
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
                "fuse_unk": false, "byte_fallback": false, "ignore_merges": ignore_merges, "vocab": vocabulary,
                "merges": self.merges,
            },
        }))
    }
}
