//! Tokenizers in the metadata of GGUF files give the ids of the tokenizers that they were made from.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use neva_data::{GgufTokenizer, Tokenizer};
use serde_json::Value;

const TEXTS: &[&str] = &[
    "What is the capital of France?",
    " leading and  double blanks ",
    "naïve 東京 🙂 x²",
    "a\nb\tc 12345",
    "<s> is a token</s>",
    "",
];

/// Returns the tokens of the embedded tokenizer by id, with their scores and types in sentencepiece.
fn sentencepiece() -> (Vec<String>, Vec<f32>, Vec<i64>) {
    let json: Value = serde_json::from_slice(include_bytes!("../tokenizers/mistral_2k/tokenizer.json")).unwrap();
    let vocabulary = json["model"]["vocab"].as_object().unwrap();
    let mut tokens: Vec<_> = vocabulary.iter().map(|(token, id)| (id.as_u64().unwrap(), token.clone())).collect();
    tokens.sort();
    let kinds = tokens.iter().map(|(id, token)| match (id, token.as_str()) {
        (0, _) => 2,
        (1 | 2, _) => 3,
        (_, token) if token.starts_with("<0x") && token.len() == 6 => 6,
        _ => 1,
    });
    let kinds = kinds.collect();
    let tokens: Vec<_> = tokens.into_iter().map(|(_, token)| token).collect();
    // The piece of an earlier merge has a better score. A piece that no merge makes is never compared.
    let merges = json["model"]["merges"].as_array().unwrap();
    let made = |merge: &Value| format!("{}{}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap());
    let ranks: BTreeMap<_, _> = merges.iter().enumerate().rev().map(|(rank, merge)| (made(merge), rank)).collect();
    let score = |token: &String| -(ranks.get(token).map_or(f32::MAX, |rank| *rank as f32));
    let scores = tokens.iter().map(score).collect();
    (tokens, scores, kinds)
}

#[test]
fn a_sentencepiece_model_with_scores() {
    let (tokens, scores, token_type) = sentencepiece();
    let tokenizer = GgufTokenizer {
        model: "llama",
        scores,
        tokens: tokens.iter().map(String::as_str).collect(),
        token_type,
        bos: Some(1),
        eos: Some(2),
        unknown: Some(0),
        ..GgufTokenizer::default()
    };
    let files = tokenizer.files().unwrap();
    let found = Tokenizer::from_bytes("gguf", &files[0].1, Some(&files[1].1)).unwrap();
    let expected = Tokenizer::builtin("mistral_2k").unwrap();
    for text in TEXTS {
        let ids = found.encode(text).unwrap();
        assert_eq!(ids, expected.encode(text).unwrap(), "{text:?}");
        assert_eq!(found.decode(&ids, false).unwrap(), expected.decode(&ids, false).unwrap());
    }
    assert_eq!((found.special().bos, found.special().eos), (Some(1), Some(2)));
    assert!(found.adds_bos());
}

/// Words that BPE sees, by the rule of a model: a vocabulary of bytes without merges but one shows them.
#[test]
fn words_of_byte_level_models() {
    // The bytes of ASCII, a blank, and a line break are tokens; "12" and "123" are merges that a rule may forbid.
    let mut tokens: Vec<String> = (33_u8..127).map(|byte| char::from(byte).to_string()).collect();
    tokens.extend(["\u{120}", "\u{10a}", "12", "123", "\u{120}a", "1234"].map(str::to_owned));
    let id = |token: &str| tokens.iter().position(|own| own == token).unwrap() as i64;
    let merges = ["1 2", "12 3", "\u{120} a", "123 4"];
    let cases: &[(Option<&str>, &str, &[&str])] = &[
        (None, "1234 a", &["1234", "\u{120}a"]),
        (Some("gpt-2"), "1234 a", &["1234", "\u{120}a"]),
        (Some("smollm"), "1234 a", &["1", "2", "3", "4", "\u{120}a"]),
        (Some("llama-bpe"), "1234 a", &["123", "4", "\u{120}a"]),
        (Some("qwen2"), "1234 a", &["1", "2", "3", "4", "\u{120}a"]),
        (Some("qwen2"), "a\n", &["a", "\u{10a}"]),
    ];
    for (pre, text, expected) in cases {
        let tokenizer = GgufTokenizer {
            model: "gpt2",
            pre: *pre,
            tokens: tokens.iter().map(String::as_str).collect(),
            merges: merges.to_vec(),
            ..GgufTokenizer::default()
        };
        let files = tokenizer.files().unwrap();
        let found = Tokenizer::from_bytes("gguf", &files[0].1, Some(&files[1].1)).unwrap();
        let expected: Vec<_> = expected.iter().map(|token| id(token)).collect();
        assert_eq!(found.encode(text).unwrap(), expected, "{pre:?} {text:?}");
        assert_eq!(found.decode(&expected, false).unwrap(), *text);
    }
}
