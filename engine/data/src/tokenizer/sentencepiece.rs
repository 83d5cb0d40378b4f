//! Conversion of a sentencepiece model to a `tokenizer.json`, as transformers' `SpmConverter` does it.
//!
//! The result gives sentencepiece's ids. Where the converter deviates from sentencepiece (it collapses blanks to `▁` and
//! keeps leading ones), this one follows sentencepiece's normalizer settings. Symbols that the trainer's user defined are
//! matched before the text is normalized, as special tokens are: so transformers has them.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use prost::Message;
use serde_json::{Value, json};

use super::merges::{NORMAL, merges};

/// Symbol of a blank.
const BLANK: &str = "\u{2581}";

/// A sentencepiece model (`sentencepiece_model.proto`), with the fields that the conversion reads.
#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<Piece>,
    #[prost(message, optional, tag = "2")]
    trainer_spec: Option<TrainerSpec>,
    #[prost(message, optional, tag = "3")]
    normalizer_spec: Option<NormalizerSpec>,
}

/// A piece of the vocabulary; its index is its id.
#[derive(Clone, PartialEq, Message)]
struct Piece {
    #[prost(string, optional, tag = "1")]
    piece: Option<String>,
    #[prost(float, optional, tag = "2")]
    score: Option<f32>,
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct TrainerSpec {
    #[prost(int32, optional, tag = "3")]
    model_type: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct NormalizerSpec {
    #[prost(bytes = "vec", optional, tag = "2")]
    precompiled_charsmap: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "3")]
    add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4")]
    remove_extra_whitespaces: Option<bool>,
    #[prost(bool, optional, tag = "5")]
    escape_whitespaces: Option<bool>,
}

/// Types of models.
const UNIGRAM: i32 = 1;
const BPE: i32 = 2;

/// Types of pieces, beside [`NORMAL`].
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const BYTE: i32 = 6;

/// A token that is matched in texts before the model splits them.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct AddedToken {
    pub(super) content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    special: bool,
}

impl AddedToken {
    /// Creates a special token that takes no blanks around it.
    pub(super) fn named(content: String) -> Self {
        Self {
            content,
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: false,
            special: true,
        }
    }
}

/// Treatment of blanks at the start of a text, from `tokenizer_config.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Metaspace {
    /// `legacy`: the text after a special token gets a blank in front, too.
    pub(super) legacy: bool,
    /// `add_prefix_space`; `None` is what the model says.
    pub(super) add_prefix_space: Option<bool>,
}

/// Converts a model. `added` are tokens by id, of `tokenizer_config.json` and `added_tokens.json`.
pub(super) fn tokenizer_json(bytes: &[u8], metaspace: Metaspace, added: &BTreeMap<u32, AddedToken>) -> Result<Value, String> {
    let model = ModelProto::decode(bytes).map_err(|error| format!("is not a sentencepiece model: {error}"))?;
    if model.pieces.is_empty() {
        return Err("is not a sentencepiece model: it has no pieces".to_owned());
    }
    let pieces: Vec<(&str, f32, i32)> = model
        .pieces
        .iter()
        .map(|piece| {
            let text = piece.piece.as_deref().unwrap_or_default();
            (text, piece.score.unwrap_or_default(), piece.kind.unwrap_or(NORMAL))
        })
        .collect();
    let of_kind = |kind| pieces.iter().position(|piece| piece.2 == kind);
    let unknown = of_kind(UNKNOWN).ok_or("has no piece for unknown characters")?;
    let byte_fallback = of_kind(BYTE).is_some();
    let model_type = model.trainer_spec.as_ref().and_then(|spec| spec.model_type).unwrap_or(UNIGRAM);
    let inner = match model_type {
        UNIGRAM => {
            let vocab: Vec<Value> = pieces.iter().map(|(piece, score, _)| json!([piece, score])).collect();
            json!({"type": "Unigram", "unk_id": unknown, "vocab": vocab, "byte_fallback": byte_fallback})
        }
        BPE => {
            let vocab: serde_json::Map<String, Value> = pieces
                .iter()
                .enumerate()
                .map(|(id, piece)| (piece.0.to_owned(), id.into()))
                .collect();
            json!({
                "type": "BPE", "dropout": null, "unk_token": pieces[unknown].0, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": byte_fallback, "ignore_merges": false,
                "vocab": vocab, "merges": merges(&pieces),
            })
        }
        other => {
            return Err(format!(
                "is a sentencepiece model of type {other}: neva-run reads those of type bpe and unigram"
            ));
        }
    };
    let spec = model.normalizer_spec.unwrap_or_default();
    let prefix = metaspace.add_prefix_space.or(spec.add_dummy_prefix).unwrap_or(true);
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added_tokens(&pieces, added),
        "normalizer": normalizer(&spec, prefix && metaspace.legacy),
        "pre_tokenizer": pre_tokenizer(&pieces, model_type, prefix, metaspace.legacy),
        "post_processor": null,
        "decoder": decoder(prefix),
        "model": inner,
    }))
}

/// Converts a BPE model that is given as pieces: text, score and type. `prefix`: a text gets a blank in front.
pub(super) fn of_pieces(pieces: &[(&str, f32, i32)], prefix: bool) -> Result<Value, String> {
    let pieces = pieces.iter().map(|(piece, score, kind)| Piece {
        piece: Some((*piece).to_owned()),
        score: Some(*score),
        kind: Some(*kind),
    });
    let model = ModelProto {
        pieces: pieces.collect(),
        trainer_spec: Some(TrainerSpec { model_type: Some(BPE) }),
        normalizer_spec: Some(NormalizerSpec {
            precompiled_charsmap: None,
            add_dummy_prefix: Some(prefix),
            remove_extra_whitespaces: Some(false),
            escape_whitespaces: Some(true),
        }),
    };
    let metaspace = Metaspace {
        legacy: true,
        add_prefix_space: None,
    };
    tokenizer_json(&model.encode_to_vec(), metaspace, &BTreeMap::new())
}

/// Returns the added tokens by id: control pieces, the unknown piece, symbols that the user defined, and those beside the
/// model.
fn added_tokens(pieces: &[(&str, f32, i32)], added: &BTreeMap<u32, AddedToken>) -> Vec<Value> {
    let mut tokens = added.clone();
    // An id is below 2^31 in sentencepiece.
    for (id, (piece, _, kind)) in (0u32..).zip(pieces) {
        if matches!(*kind, CONTROL | USER_DEFINED | UNKNOWN) {
            let mut token = AddedToken::named((*piece).to_owned());
            token.special = *kind != USER_DEFINED || added.get(&id).is_some_and(|added| added.special);
            tokens.insert(id, token);
        }
    }
    let with_id = |(id, token): (&u32, &AddedToken)| {
        let mut value = json!(token);
        value["id"] = json!(id);
        value
    };
    tokens.iter().map(with_id).collect()
}

fn normalizer(spec: &NormalizerSpec, prepends: bool) -> Value {
    let mut steps = Vec::new();
    if let Some(map) = spec.precompiled_charsmap.as_ref().filter(|map| !map.is_empty()) {
        steps.push(json!({"type": "Precompiled", "precompiled_charsmap": STANDARD.encode(map)}));
    }
    if spec.remove_extra_whitespaces.unwrap_or(true) {
        steps.push(json!({"type": "Replace", "pattern": {"Regex": "\\A +| +\\z"}, "content": ""}));
        steps.push(json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}));
    }
    if prepends {
        steps.push(json!({"type": "Prepend", "prepend": BLANK}));
    }
    if spec.escape_whitespaces.unwrap_or(true) {
        steps.push(json!({"type": "Replace", "pattern": {"String": " "}, "content": BLANK}));
    }
    json!({"type": "Sequence", "normalizers": steps})
}

/// Splits texts into words where no piece reaches across blanks, which is faster and gives the same ids.
fn pre_tokenizer(pieces: &[(&str, f32, i32)], model_type: i32, prefix: bool, legacy: bool) -> Value {
    let crosses = |piece: &&str| piece.trim_start_matches(BLANK).contains(BLANK);
    let split = model_type == UNIGRAM
        && !pieces
            .iter()
            .any(|(piece, ..)| crosses(piece) || piece.starts_with("\u{2581}\u{2581}"));
    let scheme = if prefix && !legacy { "first" } else { "never" };
    if legacy && !split {
        return Value::Null;
    }
    json!({"type": "Metaspace", "replacement": BLANK, "prepend_scheme": scheme, "split": split})
}

fn decoder(prefix: bool) -> Value {
    let mut steps = vec![
        json!({"type": "Replace", "pattern": {"String": BLANK}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": steps})
}
