//! The files of the tokenizer, completed for transformers: special tokens, BOS, `<image>`, chat template.

use super::files::write_json;
use crate::checkpoint::{read_json, write_file};
use crate::error::Result;
use neva_data::{IMAGE_TOKEN, Tokenizer};
use neva_layout::ModelTable;
use serde_json::{Map, Value, json};
use std::path::Path;

const TOKENIZER: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
const SPECIAL: &str = "special_tokens_map.json";
const TEMPLATE: &str = "chat_template.jinja";
/// The file that processors of transformers before 4.50 read.
const OLD_TEMPLATE: &str = "chat_template.json";

/// Ids of special tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct TokenIds {
    /// Begin of sequence.
    pub(super) bos: Option<u32>,
    /// End of sequence.
    pub(super) eos: Option<u32>,
    /// Padding.
    pub(super) pad: Option<u32>,
    /// Image placeholder.
    pub(super) image: Option<u32>,
    /// Last token of the string at the end of an answer.
    pub(super) stop: Option<u32>,
}

/// Contents of the files.
#[derive(Debug)]
pub(super) struct TokenizerFiles {
    tokenizer: Tokenizer,
    /// `tokenizer.json`; `None` for a sentencepiece model alone.
    json: Option<Value>,
    config: Map<String, Value>,
    template: Option<String>,
    /// The model has images.
    has_images: bool,
    ids: TokenIds,
    stop: String,
    changed: bool,
}

impl TokenizerFiles {
    /// Opens the files in `folder`, which are those of `tokenizer`.
    pub(super) fn open(folder: &Path, tokenizer: Tokenizer, table: &ModelTable) -> Result<Self> {
        let read = |name: &str| -> Result<Option<Value>> {
            let path = folder.join(name);
            path.is_file().then(|| read_json(&path)).transpose()
        };
        let special = tokenizer.special();
        let config = match read(CONFIG)? {
            Some(Value::Object(config)) => config,
            _ => Map::new(),
        };
        Ok(Self {
            json: read(TOKENIZER)?,
            config,
            template: None,
            has_images: table.description.vision.is_some(),
            ids: TokenIds {
                bos: special.bos,
                eos: special.eos,
                pad: special.pad,
                image: special.image,
                stop: None,
            },
            stop: String::new(),
            changed: false,
            tokenizer,
        })
    }

    /// Sets the string at which generation stops.
    pub(super) fn set_stop(&mut self, stop: &str) {
        self.stop = stop.to_owned();
        self.ids.stop = self.stop_token(stop);
    }

    /// Returns the token that ends an answer: the only one that `stop` adds to a text.
    fn stop_token(&self, stop: &str) -> Option<u32> {
        const TEXT: &str = "a";
        let stop = stop.trim_start_matches(' ');
        let id = |ids: &[i64]| ids.last().and_then(|id| u32::try_from(*id).ok());
        if stop.is_empty() {
            return None;
        }
        if self.tokenizer.is_one_token(stop) {
            return self.tokenizer.encode(stop).ok().and_then(|ids| id(&ids));
        }
        let (text, whole) = (
            self.tokenizer.encode(TEXT).ok()?,
            self.tokenizer.encode(&format!("{TEXT}{stop}")).ok()?,
        );
        (whole.len() == text.len() + 1 && whole.starts_with(&text))
            .then(|| id(&whole))
            .flatten()
    }

    /// Sets whether a text starts with BOS.
    pub(super) fn set_bos(&mut self, adds: bool) {
        if self.tokenizer.adds_bos() == adds {
            return;
        }
        let (Some(bos), Some(json)) = (self.ids.bos, &mut self.json) else {
            return;
        };
        let token = self.tokenizer.decode(&[i64::from(bos)], false).unwrap_or_default();
        let others: Vec<Value> = match json["post_processor"].take() {
            Value::Null => Vec::new(),
            Value::Object(one) if one.get("type") == Some(&"Sequence".into()) => {
                one.get("processors").and_then(Value::as_array).cloned().unwrap_or_default()
            }
            one => vec![one],
        };
        let mut steps: Vec<_> = others.into_iter().filter(|step| step["type"] != "TemplateProcessing").collect();
        if adds {
            let special = json!({ "SpecialToken": { "id": token, "type_id": 0 } });
            let sequence = |id: &str, kind: u32| json!({ "Sequence": { "id": id, "type_id": kind } });
            steps.push(json!({
                "type": "TemplateProcessing",
                "single": [special, sequence("A", 0)],
                "pair": [special, sequence("A", 0), sequence("B", 1)],
                "special_tokens": { (token.clone()): { "id": token, "ids": [bos], "tokens": [token] } },
            }));
        }
        json["post_processor"] = match steps.len() {
            0 => Value::Null,
            1 => steps.remove(0),
            _ => json!({ "type": "Sequence", "processors": steps }),
        };
        self.config.insert("add_bos_token".to_owned(), adds.into());
        self.changed = true;
    }

    /// Sets the chat template.
    pub(super) fn set_template(&mut self, jinja: String) {
        self.template = Some(jinja);
    }

    /// Writes the files. Returns the ids.
    pub(super) fn write(mut self, folder: &Path, notes: &mut Vec<String>) -> Result<TokenIds> {
        if !self.stop.is_empty() && self.ids.stop.is_none() {
            notes.push(format!(
                "answers end with {:?}, which is several tokens: give generate() stop_strings=[{:?}] and the tokenizer",
                self.stop, self.stop
            ));
        }
        let token = |id: Option<u32>| id.and_then(|id| self.tokenizer.decode(&[i64::from(id)], false).ok());
        let mut special = Map::new();
        for (name, id) in [
            ("bos_token", self.ids.bos),
            ("eos_token", self.ids.eos),
            ("pad_token", self.ids.pad.or(self.ids.eos)),
        ] {
            if let Some(token) = token(id).filter(|token| !token.is_empty()) {
                if self.config.get(name).is_none_or(Value::is_null) {
                    self.config.insert(name.to_owned(), token.clone().into());
                }
                special.insert(name.to_owned(), token.into());
            }
        }
        if let Some(unknown) = self.config.get("unk_token").filter(|token| token.is_string()) {
            special.insert("unk_token".to_owned(), unknown.clone());
        }
        if self.has_images && self.ids.image.is_some() {
            self.config.entry("image_token").or_insert_with(|| IMAGE_TOKEN.into());
            self.config
                .entry("extra_special_tokens")
                .or_insert_with(|| json!({ "image_token": IMAGE_TOKEN }));
        }
        if self.json.is_some() {
            self.config
                .entry("tokenizer_class")
                .or_insert_with(|| "PreTrainedTokenizerFast".into());
            // That class would also return `token_type_ids`, which `generate()` of transformers 4 refuses.
            self.config
                .entry("model_input_names")
                .or_insert_with(|| json!(["input_ids", "attention_mask"]));
        }
        if self.has_images {
            let name = if self.template_of_internvl(folder) {
                "InternVLProcessor"
            } else {
                "LlavaProcessor"
            };
            self.config.entry("processor_class").or_insert_with(|| name.into());
        }
        if let Some(template) = &self.template {
            // The content of transformers before 4.50; later versions read the file.
            self.config.insert("chat_template".to_owned(), template.clone().into());
            write_file(&folder.join(TEMPLATE), template.as_bytes())?;
            if self.has_images {
                write_json(&folder.join(OLD_TEMPLATE), &json!({ "chat_template": template }))?;
            }
        }
        if let Some(json) = self.json.filter(|_| self.changed) {
            write_json(&folder.join(TOKENIZER), &json)?;
        }
        write_json(&folder.join(CONFIG), &self.config)?;
        let path = folder.join(SPECIAL);
        if !path.is_file() {
            write_json(&path, &special)?;
        }
        Ok(self.ids)
    }

    fn template_of_internvl(&self, folder: &Path) -> bool {
        read_json::<Value>(&folder.join("processor_config.json")).is_ok_and(|config| config["processor_class"] == "InternVLProcessor")
    }
}
