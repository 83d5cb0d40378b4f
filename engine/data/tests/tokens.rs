//! Compares ids and labels of prompts with a transcription of LLaVA's `preprocess_v1`.

#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use neva_data::{Conversation, IGNORE_INDEX, IMAGE_TOKEN_INDEX, Prompt, Template, Tokenizer, Turn, render};

/// Expected result of LLaVA's algorithm.
#[derive(PartialEq)]
enum Llava {
    /// The same labels as ours.
    Same,
    /// A "tokenization mismatch": LLaVA ignores the sample.
    Mismatch,
}
use Llava::{Mismatch, Same};

#[test]
fn exactly_the_answers_are_labels() {
    check(&[("<image>\nWhat is this?", "A cat.")], "A cat.</s>", Same);
    check(
        &[("<image>\nWhat?", "A cat."), ("Colour?", "Black."), ("Sure?", "Yes.")],
        "A cat.</s> Black.</s> Yes.</s>",
        Same,
    );
    check(
        &[("<image>\n<image>\nDiffer?", "Yes."), ("Look <image> here.", "I do.")],
        "Yes.</s> I do.</s>",
        Same,
    );
    check(&[("No image?", "None.")], "None.</s>", Same);
    check(&[("How many?", "12")], "12</s>", Same);
    check(&[("Say it.", "你好")], "你好</s>", Same);
    check(&[("Say it.", "\nNext line.")], "\nNext line.</s>", Same);
    check(&[("Say it.", "Smile 🙂")], "Smile 🙂</s>", Same);
    check(&[("Say it.", "🙂")], "🙂</s>", Same);
    check(&[("Say it.", "Ends in spaces.  ")], "Ends in spaces.  </s>", Same);
    check(&[("Say it.", "")], "</s>", Mismatch);
    check(
        &[("Who speaks?", "It says ASSISTANT: here.")],
        "It says ASSISTANT: here.</s>",
        Mismatch,
    );
    // A legacy tokenizer inserts a space after a special token.
    check(&[("End?", "The end</s> is near.")], "The end</s>  is near.</s>", Mismatch);
    check(&[("", "A.")], "A.</s>", Same);
}

/// Encodes `turns` with Vicuna's template and compares the text of the labels.
#[track_caller]
fn check(turns: &[(&str, &str)], expected: &str, llava: Llava) {
    let tokenizer = tokenizer();
    let prompt = render(Template::named("v1").unwrap(), &conversation(turns)).unwrap();
    let encoded = tokenizer.encode_prompt(&prompt).unwrap();
    assert_eq!(encoded.ids.len(), encoded.labels.len());
    assert!(
        encoded
            .ids
            .iter()
            .zip(&encoded.labels)
            .all(|(id, label)| label == id || *label == IGNORE_INDEX)
    );
    let labels: Vec<i64> = encoded.labels.iter().copied().filter(|&label| label != IGNORE_INDEX).collect();
    assert_eq!(tokenizer.decode(&labels, false).unwrap(), expected);

    let (ids, labels) = llava_preprocess_v1(&tokenizer, &prompt.text);
    assert_eq!(encoded.ids, ids);
    match llava {
        Same => assert_eq!(encoded.labels, labels.expect("LLaVA has a tokenization mismatch")),
        Mismatch => assert!(labels.is_none(), "LLaVA has no tokenization mismatch"),
    }
}

/// LLaVA's `preprocess_v1` with a legacy tokenizer. It tokenizes each round again to find where its answer starts.
fn llava_preprocess_v1(tokenizer: &Tokenizer, text: &str) -> (Vec<i64>, Option<Vec<i64>>) {
    let tokenize = |text: &str| {
        let mut ids = vec![1];
        for (i, chunk) in text.split("<image>").enumerate() {
            if i > 0 {
                ids.push(IMAGE_TOKEN_INDEX);
            }
            ids.extend(tokenizer.encode(chunk).unwrap());
        }
        ids
    };
    let ids = tokenize(text);
    let mut labels = ids.clone();
    labels[0] = IGNORE_INDEX;
    let mut position = 1;
    for round in text.split("</s>") {
        let parts: Vec<&str> = round.split(" ASSISTANT: ").collect();
        let [question, _] = parts[..] else { break };
        let instruction = tokenize(&format!("{question} ASSISTANT: ")).len() - 2;
        let end = (position + instruction).min(labels.len());
        labels[position.min(end)..end].fill(IGNORE_INDEX);
        position += tokenize(round).len();
    }
    let complete = position == ids.len();
    (ids, complete.then_some(labels))
}

/// Texts of 1,000 conversations, with what has tripped label searches: empty answers, digits, other alphabets, emoji, line
/// breaks, blanks at the edges, role names and stop strings.
#[test]
fn labels_of_generated_conversations_are_llava_s() {
    const WORDS: &[&str] = &[
        "A",
        "cat",
        "sits",
        "on",
        "the",
        "table",
        "in",
        "Paris,",
        "why?",
        "12",
        "3.14",
        "1,000",
        "10%",
        "北京",
        "猫。",
        "日本語",
        "🙂",
        "👩‍🚀",
        "naïve",
        "\"quoted\"",
        "a\nb",
        "\n",
        "- one\n- two",
        "x=y;",
        "e.g.",
        "ASSISTANT",
        "USER:",
        "</p>",
        "<b>",
        "\t",
        "(see",
        "below)",
        "don't",
    ];
    const RARE: &[&str] = &[" ASSISTANT: ", "</s>", "", " ", "\nNext", "7", "你好", "🙂"];
    let mut state: u64 = 42;
    let mut next = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let tokenizer = tokenizer();
    let (mut same, mut given_up) = (0, 0);
    for number in 0..1000 {
        let mut turns = Vec::new();
        for turn in 0..=next(4) {
            let mut text = |words: usize| {
                let mut words: Vec<&str> = (0..=next(words)).map(|_| WORDS[next(WORDS.len())]).collect();
                if next(8) == 0 {
                    let at = next(words.len());
                    words[at] = RARE[next(RARE.len())];
                }
                words.join(" ")
            };
            let (mut question, mut answer) = (text(12), text(20));
            if turn == 0 && next(2) == 0 {
                question = format!("<image>\n{question}");
            }
            if next(10) == 0 {
                answer = RARE[next(RARE.len())].to_owned();
            }
            turns.push((question, answer));
        }
        let turns: Vec<(&str, &str)> = turns
            .iter()
            .map(|(question, answer)| (question.as_str(), answer.as_str()))
            .collect();
        let prompt = render(Template::named("v1").unwrap(), &conversation(&turns)).unwrap();
        let encoded = tokenizer.encode_prompt(&prompt).unwrap();
        let (ids, labels) = llava_preprocess_v1(&tokenizer, &prompt.text);
        assert_eq!(encoded.ids, ids, "{number}: {turns:?}");
        match labels {
            Some(labels) => {
                assert_eq!(encoded.labels, labels, "{number}: {turns:?}");
                same += 1;
            }
            None => given_up += 1,
        }
    }
    // LLaVA ignores a conversation with an empty answer, or with a role name or stop string in a text.
    assert!(same > 600 && given_up > 50, "{same} {given_up}");
}

#[test]
fn a_token_that_overlaps_an_answer_is_a_label() {
    let tokenizer = tokenizer().with_bos(false);
    // Tokens of "A chat.": `▁A` 0..1, `▁ch` 1..4, `at` 4..6, `.` 6..7.
    for (answer, expected) in [
        (1..7, "chat."),
        (3..6, "chat"),
        (3..4, "ch"),
        (4..5, "at"),
        (6..7, "."),
        (5..7, "at."),
    ] {
        let prompt = Prompt {
            text: "A chat.".to_owned(),
            answers: vec![answer.clone()],
            images: Vec::new(),
        };
        let labels = tokenizer.encode_prompt(&prompt).unwrap().labels;
        let labels: Vec<i64> = labels.into_iter().filter(|&label| label != IGNORE_INDEX).collect();
        assert_eq!(tokenizer.decode(&labels, false).unwrap(), expected, "{answer:?}");
    }
}

#[test]
fn begin_of_sequence_is_an_option() {
    let prompt = |name| render(Template::named(name).unwrap(), &conversation(&[("Hi", "Ho")])).unwrap();
    let first_two = |tokenizer: Tokenizer, name| tokenizer.encode_prompt(&prompt(name)).unwrap().ids[..2].to_vec();
    let bos = i64::from(tokenizer().special().bos.unwrap());
    let word = tokenizer().encode("A chat").unwrap()[0];
    assert_eq!(first_two(tokenizer(), "v1"), [bos, word]);
    assert_eq!(first_two(tokenizer().with_bos(false), "v1")[0], word);
    // The template renders `<s>` itself, and it is not added twice.
    let ids = first_two(tokenizer(), "mistral");
    assert!(ids[0] == bos && ids[1] != bos, "{ids:?}");
}

#[test]
fn with_the_caption_template_all_but_the_image_are_labels() {
    let tokenizer = tokenizer();
    let prompt = render(
        Template::named("plain").unwrap(),
        &conversation(&[("<image>\nDescribe.", "A cat.")]),
    )
    .unwrap();
    let encoded = tokenizer.encode_prompt(&prompt).unwrap();
    let caption = tokenizer.encode("A cat.\n").unwrap();
    assert_eq!(encoded.ids, [&[1, IMAGE_TOKEN_INDEX], &caption[..]].concat());
    assert_eq!(encoded.labels, [&[IGNORE_INDEX, IGNORE_INDEX], &caption[..]].concat());
}

#[test]
fn special_tokens_of_the_embedded_tokenizer() {
    let tokenizer = tokenizer();
    let special = tokenizer.special();
    assert_eq!(
        (special.bos, special.eos, special.pad, special.image),
        (Some(1), Some(2), Some(2047), Some(2046))
    );
    assert_eq!(tokenizer.vocab_size(), 2048);
    assert_eq!(tokenizer.token_id("<image>"), special.image);
}

#[test]
fn special_tokens_are_read_in_every_format() {
    let json = include_bytes!("../tokenizers/mistral_2k/tokenizer.json");
    let ids = |config: Option<&str>| {
        let special = Tokenizer::from_bytes("t", json, config.map(str::as_bytes)).unwrap().special();
        (special.bos, special.eos, special.pad)
    };
    assert_eq!(ids(None), (Some(1), Some(2), Some(2047)));
    assert_eq!(
        ids(Some(r#"{"bos_token": {"content": "<s>"}, "eos_token": "</s>"}"#)),
        (Some(1), Some(2), Some(2))
    );
    assert_eq!(
        ids(Some(r#"{"bos_token": null, "eos_token": "</s>", "pad_token": "<unk>"}"#)),
        (None, Some(2), Some(0))
    );
}

#[test]
fn settings_of_a_tokenizer_that_are_not_applied_are_named() {
    let json = include_bytes!("../tokenizers/mistral_2k/tokenizer.json");
    for (config, named) in [
        (
            r#"{"add_bos_token": true, "model_max_length": 4096, "padding_side": "right"}"#,
            None,
        ),
        (
            r#"{"add_eos_token": false, "added_tokens_decoder": {"1": {"content": "<s>"}}}"#,
            None,
        ),
        (r#"{"add_eos_token": true}"#, Some("`add_eos_token` is true")),
        (r#"{"split_special_tokens": true}"#, Some("`split_special_tokens` is true")),
        (
            r#"{"added_tokens_decoder": {"1": {"content": "<s>"}, "2050": {"content": "<new>"}}}"#,
            Some("\"<new>\" the id 2050, but tokenizer.json does not have it"),
        ),
        (
            r#"{"added_tokens_decoder": {"7": {"content": "<s>"}}}"#,
            Some("\"<s>\" the id 7, but tokenizer.json has it as 1"),
        ),
    ] {
        let tokenizer = Tokenizer::from_bytes("t", json, Some(config.as_bytes())).unwrap();
        assert_eq!(
            tokenizer.unapplied().len(),
            usize::from(named.is_some()),
            "{config}: {:?}",
            tokenizer.unapplied()
        );
        if let (Some(named), Some(sentence)) = (named, tokenizer.unapplied().first()) {
            assert!(sentence.contains(named), "{config}: {sentence}");
        }
    }
}

#[test]
fn tokenizers_open_from_files_and_folders() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tokenizers/mistral_2k");
    for address in [folder, &format!("{folder}/tokenizer.json"), "builtin:mistral_2k"] {
        let tokenizer = Tokenizer::open(address).unwrap();
        assert_eq!(tokenizer.special().pad, Some(2047), "{address}");
    }
    let empty = tempfile::tempdir().unwrap();
    std::fs::write(empty.path().join("broken.json"), "{").unwrap();
    let broken = empty.path().join("broken.json");
    for (address, expected) in [
        ("builtin:gpt2", "use `builtin:mistral_2k`"),
        (empty.path().to_str().unwrap(), "tokenizer.json"),
        (broken.to_str().unwrap(), "broken.json"),
    ] {
        let text = Tokenizer::open(address).unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn streaming_decode_equals_decode() {
    let tokenizer = tokenizer();
    for text in ["A cat and a cup.", "Smile 🙂 你好!", "12  spaces", "line\nline", ""] {
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
        let mut stream = tokenizer.stream();
        let pieces: Vec<String> = ids.iter().filter_map(|&id| stream(id).unwrap()).collect();
        assert_eq!(pieces.concat(), text);
        assert!(pieces.iter().all(|piece| !piece.contains('\u{fffd}')));
    }
    assert_eq!(tokenizer.decode(&[IMAGE_TOKEN_INDEX, 1, 2], true).unwrap(), "");
}

fn tokenizer() -> Tokenizer {
    Tokenizer::builtin("mistral_2k").unwrap()
}

fn conversation(turns: &[(&str, &str)]) -> Conversation {
    let turn = |&(question, answer): &(&str, &str)| Turn {
        question: question.to_owned(),
        answer: Some(answer.to_owned()),
    };
    Conversation {
        system: None,
        turns: turns.iter().map(turn).collect(),
    }
}
