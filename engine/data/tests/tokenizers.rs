//! Files of tokenizers: `tokenizer.json` and sentencepiece models give the ids of their own libraries, whatever settings
//! trainers left in them.
//!
//! `tokenizers/*.model` were trained with sentencepiece 0.2.3, whose ids are in `sentencepiece.json`. `tokenizers/*.json` are
//! the tokenizers of Mistral-7B v0.1, SmolLM2, Qwen3 (Apache-2.0) and CLIP (MIT), cut to the pieces of the texts in
//! `reference.json`, which has the ids of the whole tokenizers.

#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::{collections::BTreeMap, fs, path::PathBuf};

use neva_data::{Conversation, IMAGE_TOKEN_INDEX, ImageText, Prompt, Template, Tokenizer, Turn, render};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Reference {
    texts: Vec<String>,
    ids: BTreeMap<String, Vec<Vec<i64>>>,
}

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/tokenizers").join(name)
}

fn open(name: &str) -> Tokenizer {
    Tokenizer::open(file(name).to_str().unwrap()).unwrap()
}

#[track_caller]
fn check_reference(reference: &str, extension: &str, count: usize) {
    let Reference { texts, ids } = serde_json::from_str(&fs::read_to_string(file(reference)).unwrap()).unwrap();
    assert_eq!(ids.len(), count);
    for (name, expected) in ids {
        let tokenizer = open(&format!("{name}.{extension}"));
        for (text, expected) in texts.iter().zip(expected) {
            assert_eq!(tokenizer.encode(text).unwrap(), expected, "{name}: {text:?}");
        }
    }
}

#[test]
fn ids_are_those_of_the_reference() {
    check_reference("reference.json", "json", 4);
}

#[test]
fn ids_of_sentencepiece_models_are_sentencepiece_s() {
    check_reference("sentencepiece.json", "model", 3);
}

/// A folder with a sentencepiece model, and the files that transformers puts beside it.
#[test]
fn a_sentencepiece_model_has_its_special_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let config = json!({
        "bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": "<pad>", "add_bos_token": true, "chat_template": "hello",
        "added_tokens_decoder": {"640": {"content": "<image>", "special": true, "normalized": false}},
    });
    fs::copy(file("llama.model"), folder.path().join("tokenizer.model")).unwrap();
    fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    fs::write(
        folder.path().join("added_tokens.json"),
        json!({"<image>": 640, "<pad>": 641}).to_string(),
    )
    .unwrap();
    let tokenizer = Tokenizer::open(folder.path().to_str().unwrap()).unwrap();
    let special = tokenizer.special();
    assert_eq!(
        (special.bos, special.eos, special.pad, special.image),
        (Some(1), Some(2), Some(641), Some(640))
    );
    assert_eq!(tokenizer.vocab_size(), 642);
    assert_eq!(tokenizer.unapplied(), [""; 0]);
    assert_eq!(tokenizer.chat_template(), Some("hello"));
    let word = tokenizer.encode("age").unwrap();
    assert_eq!(tokenizer.encode("</s>age<pad>").unwrap(), [&[2], &word[..], &[641]].concat());
    assert_eq!(tokenizer.special_tokens(), ["<unk>", "<s>", "</s>", "<image>", "<pad>"]);
    for text in ["Hello world", "  two leading", "naïve 北京 🦙\nnew"] {
        assert_eq!(tokenizer.decode(&tokenizer.encode(text).unwrap(), true).unwrap(), text);
    }
    // What a checkpoint keeps gives the same ids.
    let kept = tempfile::tempdir().unwrap();
    let files = tokenizer.files();
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        ["tokenizer.json", "tokenizer_config.json", "tokenizer.model", "added_tokens.json"]
    );
    for (name, content) in &files {
        fs::write(kept.path().join(name), content).unwrap();
    }
    let again = Tokenizer::open(kept.path().to_str().unwrap()).unwrap();
    assert_eq!(
        again.encode("Hello </s> [tool]").unwrap(),
        tokenizer.encode("Hello </s> [tool]").unwrap()
    );
    assert_eq!(again.special(), special);
}

/// `legacy: false` of transformers' Llama tokenizer: only the first word of a text gets a blank in front.
#[test]
fn a_sentencepiece_model_can_be_of_the_newer_kind() {
    let open = |config: Value| {
        let folder = tempfile::tempdir().unwrap();
        fs::copy(file("llama.model"), folder.path().join("tokenizer.model")).unwrap();
        fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
        Tokenizer::open(folder.path().to_str().unwrap()).unwrap()
    };
    let pieces = |tokenizer: &Tokenizer, text: &str| tokenizer.encode(text).unwrap();
    let (legacy, newer, without) = (
        open(json!({})),
        open(json!({"legacy": false})),
        open(json!({"add_prefix_space": false})),
    );
    let blank = i64::from(legacy.token_id("\u{2581}").unwrap());
    let letter = i64::from(legacy.token_id("a").unwrap());
    let both = i64::from(legacy.token_id("\u{2581}a").unwrap());
    assert_eq!(pieces(&legacy, "a</s>a"), [both, 2, both]);
    assert_eq!(pieces(&newer, "a</s>a"), [both, 2, letter]);
    assert_eq!(pieces(&without, "a</s>a"), [letter, 2, letter]);
    // transformers: the newer kind puts no second blank in front of a first one.
    assert_ne!(pieces(&legacy, " a")[0], both);
    assert_eq!(pieces(&newer, " a"), [both]);
    assert_ne!(blank, both);
}

#[test]
fn files_that_are_no_tokenizer_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    for (name, content, expected) in [
        (
            "tokenizer.model",
            &b"\xff\xff\xff"[..],
            "tokenizer.model: is not a sentencepiece model",
        ),
        ("tokenizer.model", b"", "is not a sentencepiece model: it has no pieces"),
        ("tokenizer.model", b"\x0a\x03\x0a\x01a", "has no piece for unknown characters"),
        ("tokenizer.json", b"{}", "tokenizer.json: "),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        let error = Tokenizer::open(path.to_str().unwrap()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    assert_eq!(Tokenizer::file_in(folder.path()), Some(folder.path().join("tokenizer.model")));
    fs::remove_file(folder.path().join("tokenizer.model")).unwrap();
    assert_eq!(Tokenizer::file_in(folder.path()), None);
}

/// Returns mistral_2k's tokenizer.json with other fields.
fn with(fields: Value) -> Vec<u8> {
    let mut json: Value = serde_json::from_slice(include_bytes!("../tokenizers/mistral_2k/tokenizer.json")).unwrap();
    for (name, value) in fields.as_object().unwrap() {
        json[name] = value.clone();
    }
    json.to_string().into_bytes()
}

/// Trainers leave these settings in the file; transformers resets them.
#[test]
fn settings_of_padding_and_truncation_change_no_ids() {
    let text = "A chat between a curious user and an artificial intelligence assistant, as everybody knows it.";
    let expected = Tokenizer::builtin("mistral_2k").unwrap().encode(text).unwrap();
    assert!(expected.len() > 16);
    let truncation = json!({"direction": "Right", "max_length": 16, "strategy": "LongestFirst", "stride": 0});
    let padding = json!({"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": 8, "pad_id": 0, "pad_type_id": 0,
                         "pad_token": "<unk>"});
    for fields in [
        json!({"truncation": truncation}),
        json!({"padding": padding}),
        json!({"truncation": truncation, "padding": padding}),
    ] {
        let tokenizer = Tokenizer::from_bytes("t", &with(fields.clone()), None).unwrap();
        assert_eq!(tokenizer.encode(text).unwrap(), expected, "{fields}");
        let prompt = Prompt {
            text: text.to_owned(),
            answers: std::iter::once(80..text.len()).collect(),
            images: Vec::new(),
        };
        let encoded = tokenizer.encode_prompt(&prompt).unwrap();
        assert_eq!(encoded.ids[1..], expected);
        assert!(encoded.labels.last().is_some_and(|&label| label >= 0));
    }
}

/// What `add_bos: null` means.
#[test]
fn the_files_say_whether_bos_is_added() {
    let template = |token: &str, id: u32| {
        let single = json!([{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]);
        json!({"type": "TemplateProcessing", "single": single,
               "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
               "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}}})
    };
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    let bos = json!({"bos_token": "<s>", "eos_token": "</s>"});
    for (config, post_processor, expected) in [
        (json!({"add_bos_token": true}), Value::Null, true),
        (json!({"add_bos_token": false}), template("<s>", 1), false),
        (json!({}), template("<s>", 1), true),
        (json!({}), template("</s>", 2), false),
        (json!({}), byte_level, false),
        (json!({}), Value::Null, true),
        (json!({"tokenizer_class": "LlamaTokenizer"}), Value::Null, true),
        (json!({"tokenizer_class": "GPT2Tokenizer"}), Value::Null, false),
        (json!({"tokenizer_class": "Qwen2TokenizerFast"}), Value::Null, false),
        (json!({"add_bos_token": true, "bos_token": null}), Value::Null, false),
    ] {
        let mut all = bos.clone();
        for (name, value) in config.as_object().unwrap() {
            all[name] = value.clone();
        }
        let json = with(json!({"post_processor": post_processor}));
        let tokenizer = Tokenizer::from_bytes("t", &json, Some(all.to_string().as_bytes())).unwrap();
        assert_eq!(tokenizer.adds_bos(), expected, "{config} {post_processor}");
        let prompt = Prompt {
            text: "Hi".to_owned(),
            ..Prompt::default()
        };
        let first = tokenizer.encode_prompt(&prompt).unwrap().ids[0];
        assert_eq!(first == 1, expected, "{config}");
    }
}

/// `<image>` in a text is text, also where the tokenizer has a token of this name.
#[test]
fn a_literal_image_token_has_no_image_id() {
    // The model itself has the tokens, or they are added to it, as here.
    let outside = with(json!({}));
    let mut inside: Value = serde_json::from_slice(&outside).unwrap();
    let vocab = inside["model"]["vocab"].as_object_mut().unwrap();
    for (name, id) in [("<image>", 2046), ("<pad>", 2047)] {
        assert!(vocab.insert(name.to_owned(), id.into()).is_none());
    }
    for (name, json) in [("inside", inside.to_string().into_bytes()), ("outside", outside)] {
        let tokenizer = Tokenizer::from_bytes("t", &json, None).unwrap();
        let image = i64::from(tokenizer.special().image.unwrap());
        let ids = tokenizer.encode("an <image> here</s>").unwrap();
        assert!(!ids.contains(&image) && ids.len() > 4, "{name}: {ids:?}");
        assert_eq!(ids.last(), Some(&2), "{name}");
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), "an <image> here", "{name}");
        assert_eq!(
            tokenizer.encode("a<pad>").unwrap().last(),
            Some(&2047),
            "ids after that of `<image>` stay"
        );
    }
}

/// LLaVA tokenizes each text between images on its own; a processor of Hugging Face the whole text. For tokenizers whose
/// `prepend_scheme` is `first` the ids differ.
#[test]
fn text_around_images_follows_llava_or_hugging_face() {
    let metaspace = |scheme: &str| {
        let pre_tokenizer = json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme, "split": false});
        with(json!({"normalizer": null, "pre_tokenizer": pre_tokenizer}))
    };
    let turn = |question: &str, answer: &str| Turn {
        question: question.to_owned(),
        answer: Some(answer.to_owned()),
    };
    let conversation = Conversation {
        system: None,
        turns: vec![
            turn("Look <image>and<image>", "Two cats."),
            turn("<image>Why?", "So."),
            turn("A", "B"),
        ],
    };
    let prompt = render(Template::named("v1").unwrap(), &conversation).unwrap();
    for (name, json, differ) in [
        ("first", metaspace("first"), true),
        ("always", metaspace("always"), false),
        ("legacy", with(json!({})), false),
    ] {
        let inner = tokenizers::Tokenizer::from_bytes(&json).unwrap();
        let image = inner.token_to_id("<image>").unwrap();
        let ids = |text: &str| inner.encode(text, false).unwrap().get_ids().to_vec();
        let signed = |id: u32| if id == image { IMAGE_TOKEN_INDEX } else { i64::from(id) };
        let whole: Vec<i64> = ids(&prompt.text).into_iter().map(signed).collect();
        let chunks: Vec<Vec<i64>> = prompt
            .text
            .split("<image>")
            .map(|chunk| ids(chunk).into_iter().map(i64::from).collect())
            .collect();
        let chunks = chunks.join(&IMAGE_TOKEN_INDEX);

        let tokenizer = || Tokenizer::from_bytes("t", &json, None).unwrap().with_bos(false);
        let encode = |image_text| tokenizer().with_image_text(image_text).unwrap().encode_prompt(&prompt).unwrap();
        let (llava, hugging_face) = (encode(ImageText::Llava), encode(ImageText::HuggingFace));
        assert_eq!(llava.ids, chunks, "{name}");
        assert_eq!(hugging_face.ids, whole, "{name}");
        assert_eq!(llava != hugging_face, differ, "{name}");
        for encoded in [llava, hugging_face] {
            let labels: Vec<i64> = encoded.labels.into_iter().filter(|&label| label >= 0).collect();
            assert_eq!(tokenizer().decode(&labels, true).unwrap(), "Two cats. So. B", "{name}");
        }
    }
    // A tokenizer without the token gets one that no text has.
    let bare = Tokenizer::open(file("llama.model").to_str().unwrap()).unwrap().with_bos(false);
    let llava = bare.encode_prompt(&prompt).unwrap();
    let hugging_face = bare
        .with_image_text(ImageText::HuggingFace)
        .unwrap()
        .encode_prompt(&prompt)
        .unwrap();
    assert_eq!(llava, hugging_face);
}
