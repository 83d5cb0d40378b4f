//! LLaVA JSON: valid records load, and all problems of invalid records are reported together.

#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::{fs, path::Path, sync::Arc};

use neva_data::{
    Batch, ChatTemplate, DataError, Dataset, IMAGE_TOKEN_INDEX, ImagePosition, ImageProcessor, LlavaDataset, LlavaJsonConfig, MergeOptions,
    RgbImage, Tokenizer, WithoutPixels,
};
use serde_json::{Value, json};

fn load(config: &LlavaJsonConfig) -> Result<LlavaDataset, DataError> {
    LlavaDataset::load(
        config,
        Arc::new(Tokenizer::builtin("mistral_2k").unwrap()),
        ImageProcessor::clip(56),
    )
}

fn config(paths: &[&Path]) -> LlavaJsonConfig {
    LlavaJsonConfig {
        paths: paths.iter().map(|path| path.to_path_buf()).collect(),
        image_folder: None,
        apply_exif: false,
        template: ChatTemplate::named("v1").unwrap(),
        image_token_position: ImagePosition::Keep,
        reads_images: true,
    }
}

fn turn(question: &str, answer: &str) -> Value {
    json!([{"from": "human", "value": question}, {"from": "gpt", "value": answer}])
}

#[test]
fn the_example_photos_load_and_decode() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/photos");
    let dataset = load(&config(&[&folder.join("photos.json")])).unwrap();
    assert_eq!(dataset.len(), 33);
    let samples: Vec<_> = (0..dataset.len()).map(|i| dataset.get(i).unwrap()).collect();
    let with = |images: usize| samples.iter().filter(|sample| sample.images.len() == images).count();
    assert_eq!((with(0), with(1), with(2)), (1, 31, 1));
    for sample in &samples {
        assert_eq!(
            sample.ids.iter().filter(|&&id| id == IMAGE_TOKEN_INDEX).count(),
            sample.images.len(),
            "{}",
            sample.name
        );
        assert!(sample.num_labels() > 3, "{}", sample.name);
        assert!(sample.images.iter().all(|p| p.chw.len() == 3 * 56 * 56));
    }
    let licences: serde_json::Map<String, Value> =
        serde_json::from_str(&fs::read_to_string(folder.join("LICENCES.json")).unwrap()).unwrap();
    for entry in fs::read_dir(&folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let image = name.ends_with(".jpg") || name.ends_with(".png");
        assert!(!image || licences.contains_key(&name), "{name} has no licence");
    }
}

/// A rank without a vision encoder gets the same rows without reading an image.
#[test]
fn without_pixels_no_image_is_decoded() {
    let folder = tempfile::tempdir().unwrap();
    for (name, colour) in [("red.bmp", [255, 0, 0]), ("blue.bmp", [0, 0, 255])] {
        fs::write(folder.path().join(name), bitmap(colour)).unwrap();
    }
    let records = json!([
        {"image": "red.bmp", "conversations": turn("<image>\nWhich colour?", "Red.")},
        {"conversations": turn("What is one and one?", "Two.")},
        {"image": ["red.bmp", "blue.bmp"], "conversations": turn("<image><image>\nWhich colours?", "Red and blue.")},
    ]);
    let path = folder.path().join("records.json");
    fs::write(&path, records.to_string()).unwrap();
    let dataset: Arc<dyn Dataset> = Arc::new(load(&config(&[&path])).unwrap());
    let options = MergeOptions {
        image_seq_len: 16,
        max_length: 256,
        row_multiple: 1,
        fixed_length: false,
        packed: false,
    };
    let batch = |dataset: &dyn Dataset| Batch::from_indices(dataset, &[0, 1, 2], &options).map(Option::unwrap);
    let with = batch(&*dataset).unwrap();
    assert_eq!(with.pixel_shape, [3, 3, 56, 56]);
    // Images that cannot be decoded.
    fs::write(folder.path().join("red.bmp"), b"BM").unwrap();
    fs::write(folder.path().join("blue.bmp"), b"BM").unwrap();
    let error = batch(&*dataset).unwrap_err();
    assert!(
        matches!(&error, DataError::Sample { sample, error } if *sample == dataset.name(0) && matches!(**error, DataError::Image { .. })),
        "{error:?}"
    );
    let without = batch(&WithoutPixels(dataset)).unwrap();
    let expected = Batch {
        pixels: Vec::new(),
        pixel_shape: [0; 4],
        ..with
    };
    assert_eq!(without, expected);
}

/// Returns a BMP file of one pixel.
fn bitmap([red, green, blue]: [u8; 3]) -> Vec<u8> {
    let mut bytes = b"BM".to_vec();
    for word in [58u32, 0, 54, 40, 1, 1, 1 | 24 << 16, 0, 4, 0, 0, 0, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend([blue, green, red, 0]);
    bytes
}

#[test]
fn records_keep_their_images_text_and_order() {
    let folder = tempfile::tempdir().unwrap();
    let images = folder.path().join("images");
    fs::create_dir(&images).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/processing");
    for name in ["wide.png", "tall.png"] {
        fs::copy(source.join(name), images.join(name)).unwrap();
    }
    let (first, second) = (folder.path().join("a.json"), folder.path().join("b.json"));
    let records = json!([
        {"id": "one", "image": "wide.png", "conversations": turn("Say: <image> what?", "A.")},
        {"image": ["tall.png", "wide.png"], "conversations": turn("<image>\n<image>\nWhat?", "B.")},
        {"id": 3, "image": null, "extra": 1, "conversations": turn("What?", "")},
    ]);
    fs::write(&first, records.to_string()).unwrap();
    fs::write(&second, json!([{"image": [], "conversations": turn("Again?", "C.")}]).to_string()).unwrap();
    let keep = LlavaJsonConfig {
        image_folder: Some(images),
        apply_exif: false,
        ..config(&[&first, &second])
    };
    let dataset = load(&keep).unwrap();
    assert_eq!(dataset.len(), 4);
    let names: Vec<String> = (0..4).map(|i| dataset.get(i).unwrap().name).collect();
    assert_eq!(names[0], format!("{}#0 (id one)", first.display()));
    assert_eq!(names[3], format!("{}#0", second.display()));
    assert_eq!((0..4).map(|i| dataset.name(i)).collect::<Vec<_>>(), names);
    assert_eq!(dataset.name(4), "there is no sample 4 in a dataset of 4");

    let process = |name: &str| ImageProcessor::clip(56).process(&RgbImage::open(&source.join(name)).unwrap());
    assert_eq!(dataset.get(1).unwrap().images, [process("tall.png"), process("wide.png")]);
    assert!(dataset.get(4).unwrap_err().to_string().contains("no sample 4 in a dataset of 4"));

    let tokenizer = Tokenizer::builtin("mistral_2k").unwrap();
    let text = |dataset: &LlavaDataset| tokenizer.decode(&dataset.get(0).unwrap().ids, true).unwrap();
    assert!(text(&dataset).contains("USER: Say:   what?"), "{}", text(&dataset));
    let front = load(&LlavaJsonConfig {
        image_token_position: ImagePosition::Front,
        ..keep
    })
    .unwrap();
    assert!(text(&front).contains("USER:  \nSay:  what?"), "{}", text(&front));
}

#[test]
fn a_sample_with_a_broken_image_has_a_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("data.json");
    fs::write(folder.path().join("cat.png"), "not an image").unwrap();
    let records = json!([{"id": "cat", "image": "cat.png", "conversations": turn("<image>?", "A.")}]);
    fs::write(&file, records.to_string()).unwrap();
    let dataset = load(&config(&[&file])).unwrap();
    assert!(dataset.get(0).is_err());
    assert_eq!(dataset.name(0), format!("{}#0 (id cat)", file.display()));
}

/// Compares the problems of a file with one record, without their prefix `FILE: record 0`.
#[track_caller]
fn check(record: Value, expected: &[&str]) {
    check_with_template("v1", record, expected);
}

#[track_caller]
fn check_with_template(template: &str, record: Value, expected: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("data.json");
    fs::write(&file, Value::Array(vec![record]).to_string()).unwrap();
    fs::copy(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/processing/dot.png"),
        folder.path().join("dot.png"),
    )
    .unwrap();
    let error = load(&LlavaJsonConfig {
        template: ChatTemplate::named(template).unwrap(),
        ..config(&[&file])
    })
    .unwrap_err();
    let DataError::Records { problems } = &error else {
        panic!("{error}")
    };
    let prefix = format!("{}: record 0", file.display());
    let found: Vec<String> = problems
        .iter()
        .map(|problem| {
            problem
                .to_string()
                .strip_prefix(&prefix)
                .unwrap()
                .replace(folder.path().to_str().unwrap(), "DIR")
        })
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn every_problem_of_a_record_is_reported() {
    check(json!(5), &[": must be an object, found a number"]);
    check(json!({"id": 7}), &[" (id 7), conversations: is missing: the record has id"]);
    check(
        json!({"id": "x", "conversations": {}}),
        &[" (id x), conversations: must be a list of messages, found an object"],
    );
    check(json!({"conversations": []}), &[", conversations: is empty"]);
    check(
        json!({"conversations": [{"from": "human", "value": 3}]}),
        &[
            ", conversations: message 0 must be {\"from\": string, \"value\": string} or {\"role\": string, \"content\": string or \
              list of parts}",
        ],
    );
    check(
        json!({"image": ["dot.png", "no.png"], "conversations": turn("<image>", "A.")}),
        &[
            ", image: 2 image(s), but the text has `<image>` 1 time(s)",
            ", image: there is no file DIR/no.png",
        ],
    );
    check(
        json!({"image": [1], "conversations": "no"}),
        &[
            ", image: must be a file name or a list of file names",
            ", conversations: must be a list of messages, found a string",
        ],
    );
    check_with_template(
        "plain",
        json!({"conversations": turn("What?", "A.")}),
        &[
            ", conversations: template `plain` cannot render this conversation: it needs exactly two messages, the first of \
           which holds `<image>`",
        ],
    );
}

#[test]
fn files_without_a_list_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    for (text, expected) in [
        ("[{]", "record 0: is not JSON: key must be a string at byte 3 of the file"),
        ("", "is empty: expected a list of records"),
        ("{\"a\": 1}", "expected a list of records"),
        ("[] []", "is not JSON: something follows the list of 0 record(s)"),
    ] {
        let file = folder.path().join("data.json");
        fs::write(&file, text).unwrap();
        let text = load(&config(&[&file])).unwrap_err().to_string();
        assert!(text.contains(expected) && text.contains("data.json"), "{text}");
    }
    let file = folder.path().join("data.json");
    fs::write(&file, "[]").unwrap();
    assert!(matches!(load(&config(&[&file])), Err(DataError::NoRecords { .. })));
    let text = load(&config(&[&folder.path().join("absent.json")])).unwrap_err().to_string();
    assert!(text.contains("absent.json: cannot be read"), "{text}");
}

#[test]
fn at_most_20_problems_are_listed_and_the_rest_counted() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("data.json");
    fs::write(&file, Value::Array(vec![json!({}); 33]).to_string()).unwrap();
    let error = load(&config(&[&file, &folder.path().join("absent.json")])).unwrap_err();
    let text = error.to_string();
    assert_eq!(text.lines().count(), 22, "{text}");
    assert!(text.starts_with("34 problem(s)") && text.ends_with("and 14 more"), "{text}");
    assert!(text.contains(": record 19, conversations: is missing"), "{text}");
}
