//! Forms of records: LLaVA's, ShareGPT's and OpenAI's, roles by name, images with and without marks, and what is refused.

#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::{fs, ops::Deref, path::Path, sync::Arc};

use neva_data::{ChatTemplate, DataError, Dataset, ImagePosition, ImageProcessor, LlavaDataset, LlavaJsonConfig, RecordCounts, Tokenizer};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A dataset, and the folder of its files, which it reads while it is used.
struct Loaded {
    dataset: LlavaDataset,
    _folder: TempDir,
}

impl Deref for Loaded {
    type Target = LlavaDataset;

    fn deref(&self) -> &LlavaDataset {
        &self.dataset
    }
}

/// Loads one record, beside the image `a.png` and `b.png`.
fn load(template: &str, record: &Value) -> Result<Loaded, DataError> {
    let folder = tempfile::tempdir().unwrap();
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/processing/dot.png");
    for name in ["a.png", "b.png"] {
        fs::copy(&image, folder.path().join(name)).unwrap();
    }
    let file = folder.path().join("data.json");
    fs::write(&file, json!([record]).to_string()).unwrap();
    let config = LlavaJsonConfig {
        paths: vec![file],
        image_folder: None,
        apply_exif: false,
        template: ChatTemplate::named(template).unwrap(),
        image_token_position: ImagePosition::Keep,
        reads_images: true,
    };
    let dataset = LlavaDataset::load(&config, tokenizer(), ImageProcessor::clip(56))?;
    Ok(Loaded { dataset, _folder: folder })
}

fn tokenizer() -> Arc<Tokenizer> {
    Arc::new(Tokenizer::builtin("mistral_2k").unwrap())
}

/// Compares the text of a record's sample, with `@` for each image, after the default system text.
#[track_caller]
fn check(record: Value, text: &str, counts: RecordCounts) {
    let dataset = load("v1", &record).unwrap_or_else(|error| panic!("{record}: {error}"));
    let sample = dataset.get_without_pixels(0).unwrap();
    let tokenizer = tokenizer();
    let decode = |ids: &[i64]| tokenizer.decode(ids, false).unwrap();
    let pieces: Vec<_> = sample.ids.split(|&id| id < 0).map(decode).collect();
    let decoded = pieces.join("@").replace("<s> ", "").replace("<s>", "");
    let decoded = decoded.strip_prefix(SYSTEM).unwrap_or(&decoded);
    assert_eq!(decoded, text, "{record}");
    assert_eq!(sample.images.len(), pieces.len() - 1, "{record}");
    assert_eq!(dataset.counts(), counts, "{record}");
}

const SYSTEM: &str = "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, \
                      and polite answers to the user's questions. ";
const NONE: RecordCounts = RecordCounts {
    leading_answers: 0,
    unanswered: 0,
    unmarked_images: 0,
    literal_marks: 0,
};

fn from_value(messages: &[(&str, &str)]) -> Value {
    messages.iter().map(|(from, value)| json!({"from": from, "value": value})).collect()
}

#[test]
fn roles_are_known_by_name() {
    let text = "USER: Hi ASSISTANT: Ho</s>";
    for (user, assistant) in [
        ("human", "gpt"),
        ("Human", "GPT"),
        ("user", "assistant"),
        ("USER", "ASSISTANT"),
        (" user ", "bot"),
        ("prompter", "chatgpt"),
        ("question", "answer"),
        ("human", "model"),
    ] {
        check(json!({"conversations": from_value(&[(user, "Hi"), (assistant, "Ho")])}), text, NONE);
        let messages = json!([{"role": user, "content": "Hi"}, {"role": assistant, "content": "Ho"}]);
        check(json!({ "messages": messages }), text, NONE);
        check(json!({ "conversations": messages }), text, NONE);
    }
}

#[test]
fn system_texts_replace_the_template_s() {
    let turns = [("human", "Hi"), ("gpt", "Ho")];
    let with_first = |role: &str| from_value(&[(role, "Be brief."), turns[0], turns[1]]);
    let text = "Be brief. USER: Hi ASSISTANT: Ho</s>";
    check(json!({"conversations": with_first("system")}), text, NONE);
    check(json!({"conversations": with_first("System")}), text, NONE);
    check(json!({"system": "Be brief.", "conversations": from_value(&turns)}), text, NONE);
    check(
        json!({"system_prompt": "Be brief.", "conversations": from_value(&turns)}),
        text,
        NONE,
    );
    check(json!({"system": "Be brief.", "conversations": with_first("system")}), text, NONE);
    check(
        json!({"system": "", "conversations": from_value(&turns)}),
        "USER: Hi ASSISTANT: Ho</s>",
        NONE,
    );
    check(
        json!({"system": "A <image> is text.", "image": "a.png", "conversations": from_value(&[("human", "<image>Hi"), turns[1]])}),
        "A <image> is text. USER: @Hi ASSISTANT: Ho</s>",
        NONE,
    );
}

#[test]
fn images_are_named_in_fields_or_in_parts() {
    let marked = from_value(&[("human", "<image>\nWhat?"), ("gpt", "A.")]);
    let text = "USER: @\nWhat? ASSISTANT: A.</s>";
    for images in [
        json!({"image": "a.png"}),
        json!({"images": "a.png"}),
        json!({"images": ["a.png"]}),
        json!({"image": "a.png", "images": ["a.png"]}),
        json!({"image": "a.png", "images": []}),
        json!({"image": null, "images": [{"path": "a.png"}]}),
    ] {
        let mut record = images.clone();
        record["conversations"] = marked.clone();
        check(record, text, NONE);
    }
    for part in [
        json!({"type": "image_url", "image_url": {"url": "a.png"}}),
        json!({"type": "image_url", "image_url": "a.png"}),
        json!({"type": "image", "image": "a.png"}),
        json!({"type": "image", "path": "a.png"}),
        json!({"type": "input_image", "image_url": "a.png"}),
    ] {
        let content = json!([part, {"type": "text", "text": "What?"}]);
        let messages = json!([{"role": "user", "content": content}, {"role": "assistant", "content": "A."}]);
        check(json!({ "messages": messages }), text, NONE);
    }
    let content = json!([{"type": "text", "text": "See"}, {"type": "image"}, {"type": "image"}, "Differ?"]);
    let answer = json!([{"type": "text", "text": "Yes."}]);
    let messages = json!([{"role": "user", "content": content}, {"role": "assistant", "content": answer}]);
    check(
        json!({"images": ["a.png", "b.png"], "messages": messages}),
        "USER: See\n@\n@\nDiffer? ASSISTANT: Yes.</s>",
        NONE,
    );
    let content = json!([{"type": "image", "image": "a.png"}, {"type": "text", "text": "Is <image> a tag?"}]);
    let messages = json!([{"role": "user", "content": content}, {"role": "assistant", "content": "It is."}]);
    check(
        json!({ "messages": messages }),
        "USER: @\nIs <image> a tag? ASSISTANT: It is.</s>",
        NONE,
    );
}

#[test]
fn what_llava_takes_is_taken_and_counted() {
    let leading = RecordCounts {
        leading_answers: 1,
        ..NONE
    };
    let unanswered = RecordCounts { unanswered: 1, ..NONE };
    let unmarked = RecordCounts {
        unmarked_images: 1,
        ..NONE
    };
    let literal = RecordCounts { literal_marks: 1, ..NONE };
    let (hi, ho, bot) = (("human", "Hi"), ("gpt", "Ho"), ("gpt", "I am a bot."));
    let text = "USER: Hi ASSISTANT: Ho</s>";
    check(json!({"conversations": from_value(&[bot, hi, ho])}), text, leading);
    check(
        json!({"conversations": from_value(&[("system", "Be brief."), bot, hi, ho])}),
        &format!("Be brief. {text}"),
        leading,
    );
    check(json!({"conversations": from_value(&[hi, ho, ("human", "And?")])}), text, unanswered);
    check(
        json!({"conversations": from_value(&[bot, hi, ho, hi])}),
        text,
        RecordCounts {
            leading_answers: 1,
            ..unanswered
        },
    );
    check(
        json!({"image": "a.png", "conversations": from_value(&[hi, ho])}),
        "USER: @\nHi ASSISTANT: Ho</s>",
        unmarked,
    );
    check(
        json!({"images": ["a.png", "b.png"], "conversations": from_value(&[hi, ho])}),
        "USER: @\n@\nHi ASSISTANT: Ho</s>",
        unmarked,
    );
    check(
        json!({"image": "a.png", "conversations": from_value(&[(" human", " "), ho])}),
        "USER: @ ASSISTANT: Ho</s>",
        unmarked,
    );
    check(
        json!({"conversations": from_value(&[("human", "What is <image>?"), ("gpt", "<image> is a tag.")])}),
        "USER: What is <image>? ASSISTANT: <image> is a tag.</s>",
        literal,
    );
    // Images of dropped messages go with them.
    check(
        json!({"image": ["a.png", "b.png"], "conversations": from_value(&[("gpt", "<image>"), ("human", "<image>Hi"), ho])}),
        "USER: @Hi ASSISTANT: Ho</s>",
        leading,
    );
    check(
        json!({"image": ["a.png", "b.png"], "conversations": from_value(&[("human", "<image>Hi"), ho, ("human", "<image>?")])}),
        "USER: @Hi ASSISTANT: Ho</s>",
        unanswered,
    );
    let sentences = leading.sentences();
    assert_eq!(sentences, ["1 record(s) start with an answer, which is dropped"]);
}

#[test]
fn the_first_and_last_images_are_those_of_dropped_messages() {
    let messages = from_value(&[("human", "<image>Hi"), ("gpt", "Ho"), ("human", "<image>?")]);
    let record = json!({"image": ["a.png", "nope.png"], "conversations": messages});
    // The image of the dropped question is not read, so it need not exist.
    assert_eq!(load("v1", &record).unwrap().len(), 1);
}

#[test]
fn records_that_would_train_on_something_else_are_refused() {
    let turns = || from_value(&[("human", "Hi"), ("gpt", "Ho")]);
    let conversation = |messages: &[(&str, &str)]| json!({"conversations": from_value(messages)});
    let part = |part: Value| json!({"messages": [{"role": "user", "content": [part]}, {"role": "assistant", "content": "Ho"}]});
    let message = |key: &str, value: Value| {
        let mut messages = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]);
        messages[1][key] = value;
        json!({ "messages": messages })
    };
    for (record, expected) in [
        (
            conversation(&[("GPT", "I am a bot."), ("human", "A secret?")]),
            "conversations: has a question, but no answer",
        ),
        (
            conversation(&[("gpt", "I am a bot.")]),
            "conversations: has no question with an answer",
        ),
        (
            conversation(&[("Alice", "Hi"), ("Bob", "Ho")]),
            "conversations: message 0 is from \"Alice\": name its speaker human or gpt",
        ),
        (
            conversation(&[("human", "Hi"), ("human", "Ho")]),
            "conversations: message 1 is from \"human\", but questions and answers must alternate",
        ),
        (
            conversation(&[("human", "Hi"), ("gpt", "Ho"), ("gpt", "Ho"), ("human", "Hi")]),
            "message 2 is from \"gpt\", but questions and answers must alternate",
        ),
        (
            conversation(&[("gpt", "Hi"), ("gpt", "Ho"), ("human", "Hi"), ("gpt", "Ho")]),
            "message 1 is from \"gpt\", but questions",
        ),
        (
            conversation(&[("human", "Hi"), ("system", "Be brief."), ("gpt", "Ho")]),
            "message 1 is from \"system\": only the first message",
        ),
        (
            conversation(&[("human", "Hi"), ("gpt", "Ho"), ("observation", "42"), ("gpt", "Ho")]),
            "message 2 is from \"observation\": calls of tools are not supported",
        ),
        (
            json!({"system": "Be long.", "conversations": from_value(&[("system", "Be brief."), ("human", "Hi"), ("gpt", "Ho")])}),
            "system: differs from the system message",
        ),
        (
            json!({"system": 3, "conversations": turns()}),
            "system: must be a string, found a number",
        ),
        (
            json!({"video": "a.mp4", "conversations": turns()}),
            "video: is not supported: the model gets text and images only",
        ),
        (json!({"audio": ["a.wav"], "conversations": turns()}), "audio: is not supported"),
        (
            json!({"img": "a.png", "conversations": turns()}),
            "img: is not read: remove it, or name images in `image`",
        ),
        (json!({"chosen": "Yes.", "conversations": turns()}), "chosen: is of preference data"),
        (
            json!({"tools": [{"name": "f"}], "conversations": turns()}),
            "tools: is of calls of tools, which are not supported",
        ),
        (
            json!({"image": "a.png", "images": ["b.png"], "conversations": turns()}),
            "images: differs from `image`",
        ),
        (
            json!({"conversations": turns(), "messages": turns()}),
            "messages: the record has `conversations`, too",
        ),
        (
            json!({"instruction": "Hi", "output": "Ho"}),
            "conversations: is missing: the record has instruction, output",
        ),
        (
            json!({"image": ["a.png", "b.png"], "conversations": from_value(&[("human", "<image>?"), ("gpt", "Ho")])}),
            "image: 2 image(s), but the text has `<image>` 1 time(s)",
        ),
        (
            json!({"image": "a.png", "conversations": from_value(&[("human", "<image><image>?"), ("gpt", "Ho")])}),
            "image: 1 image(s), but the text has `<image>` 2 time(s)",
        ),
        (
            part(json!({"type": "video", "video": "a.mp4"})),
            "messages: message 0 part 0: parts of type \"video\" are not supported",
        ),
        (
            part(json!({"type": "image_url", "image_url": {"url": "https://example.org/a.png"}})),
            "messages: message 0 part 0: an image at `https://...` is not read",
        ),
        (
            part(json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}})),
            "an image at `data:...` is not read",
        ),
        (part(json!({"type": "text"})), "a part of type text must have a string in `text`"),
        (part(json!({"type": "image", "image": 3})), "an image must be a file name"),
        (
            part(json!({"type": "image"})),
            "image: 0 image(s), but the parts of messages have 1",
        ),
        (
            message("tool_calls", json!([{"id": 1}])),
            "messages: message 1 cannot be used: `tool_calls` is not read",
        ),
        (
            message("weight", json!(0)),
            "messages: message 1 cannot be used: `weight` 0 is not applied",
        ),
    ] {
        let error = load("v1", &record).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(expected), "{record}:\n{error}\n{expected}");
        assert!(error.contains("data.json: record 0"), "{error}");
    }
}

#[test]
fn harmless_fields_are_ignored() {
    let record = json!({"id": 1, "source": "coco", "dataset": "x", "metadata": {"a": 1}, "split": "train", "video": null, "audio": "",
        "tools": [], "width": 3, "model": "gpt-4", "conversations": [{"from": "human", "value": "Hi", "id": 3, "weight": null},
        {"from": "gpt", "value": "Ho", "weight": 1, "tool_calls": null}]});
    check(record, "USER: Hi ASSISTANT: Ho</s>", NONE);
}

/// Every field of a record and of its messages with a value of every type: a problem or a sample, and no panic.
#[test]
fn values_of_every_type_are_reported_or_read() {
    let values = [
        json!(null),
        json!(true),
        json!(-1.5),
        json!(""),
        json!("<image>"),
        json!("\u{fdd0}\u{fdd1}\u{fdd2}"),
        json!([]),
        json!([[]]),
        json!([null, "a.png"]),
        json!([{"type": "image"}, {"type": null}, {"text": 3}, "x"]),
        json!({}),
        json!({"url": {"url": 3}, "path": "a.png"}),
    ];
    let fields = ["id", "image", "images", "system", "conversations", "messages", "video"];
    let of_messages = ["from", "value", "role", "content", "weight", "tool_calls"];
    for value in &values {
        let record = || json!({"image": "a.png", "conversations": from_value(&[("human", "<image>Hi"), ("gpt", "Ho")])});
        for field in fields {
            let mut record = record();
            record[field] = value.clone();
            let _ = load("v1", &record).map(|dataset| dataset.get_without_pixels(0).unwrap());
        }
        for field in of_messages {
            let mut record = record();
            record["conversations"][0][field] = value.clone();
            let _ = load("v1", &record).map(|dataset| dataset.get_without_pixels(0).unwrap());
        }
    }
}

#[test]
fn a_template_without_a_place_for_system_texts_refuses_them() {
    let record = json!({"system": "Be brief.", "conversations": from_value(&[("human", "Hi"), ("gpt", "Ho")])});
    let error = load("gemma", &record).map(|_| ()).unwrap_err().to_string();
    assert!(
        error.contains("record 0, conversations: template `gemma_instruct` cannot render"),
        "{error}"
    );
    assert!(error.contains("no place for the conversation's system text"), "{error}");
}
