//! Samples as a person sees them: the tokens are those of the training, and their texts make up its text.

#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::{fs, path::Path};

use neva_data::{InspectError, InspectedData, Kind, ModelFolders, PreloadedTools, Probe, Selection, inspect, page};
use neva_schemas::{LlavaModel, NevaPreloadedDataModule};
use serde_json::{Value, json};
use tempfile::TempDir;

fn probe(dir: &TempDir, files: &[(&str, Value)], seq_length: usize) -> Probe {
    for (name, records) in files {
        fs::write(dir.path().join(name), records.to_string()).unwrap();
    }
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/processing/wide.png");
    fs::copy(image, dir.path().join("wide.png")).unwrap();
    let settings = NevaPreloadedDataModule {
        paths: files.iter().map(|(name, _)| dir.path().join(name)).collect(),
        seq_length,
        tokenizer: Some("builtin:mistral_2k".to_owned()),
        ..NevaPreloadedDataModule::default()
    };
    let model = LlavaModel::default().description();
    let tools = PreloadedTools::open(&settings, &model, ModelFolders::default()).unwrap();
    Probe::new(&settings, &model, tools)
}

fn record(question: &str, answer: &str) -> Value {
    json!({"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]})
}

fn texts() -> Vec<Value> {
    let mut image = record("<image>\nWhat is it, and <b>why</b>?", "A \"cat\" & a dog.");
    image["image"] = json!("wide.png");
    image["id"] = json!("cat");
    vec![
        image,
        record("Two  blanks,\na line and\ttabs?", "1234 ... 5\n\n- list"),
        record(
            "\u{4f60}\u{597d}\u{ff1f} \u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}",
            "\u{1f600}\u{5f88}\u{597d} naïve",
        ),
        record("Right-to-left \u{202e} and a control \u{1b}[31m?", "No."),
    ]
}

fn all(probe: &Probe) -> InspectedData {
    inspect(probe, &Selection::Spread(100), None).unwrap()
}

#[test]
fn the_texts_of_the_tokens_are_the_text() {
    let dir = tempfile::tempdir().unwrap();
    let data = all(&probe(&dir, &[("data.json", Value::from(texts()))], 2048));
    assert_eq!(data.samples.len(), 4);
    for sample in &data.samples {
        let joined: String = sample.pieces.iter().map(|piece| piece.text.as_str()).collect();
        // The begin-of-sequence token is no part of the text.
        let without_blanks = |text: &str| text.replace("<s>", "").replace("<image>", "").replace(' ', "");
        assert_eq!(without_blanks(&joined), without_blanks(&sample.text), "{}", sample.name());
        let labels: String = sample
            .pieces
            .iter()
            .filter(|piece| piece.is_label)
            .map(|piece| piece.text.as_str())
            .collect();
        assert!(labels.ends_with("</s>") && !labels.contains("USER"), "{labels:?}");
        assert_eq!(sample.pieces.iter().filter(|piece| piece.is_label).count(), sample.kept_labels);
        let last = sample.pieces.last().unwrap();
        assert_eq!(sample.positions, last.position, "the last token is a target only");
    }
    let image = &data.samples[0];
    assert_eq!((image.images.len(), image.image_positions), (1, 576));
    assert_eq!(
        (image.images[0].processed.as_slice(), image.name().ends_with("data.json#0 (id cat)")),
        ([(336, 336)].as_slice(), true)
    );
}

#[test]
fn what_is_cut_is_marked() {
    let dir = tempfile::tempdir().unwrap();
    for seq_length in [8, 40, 600, 2048] {
        let data = all(&probe(&dir, &[("data.json", Value::from(texts()))], seq_length));
        for sample in &data.samples {
            let labels = sample.pieces.iter().filter(|piece| piece.is_label).count();
            assert_eq!(labels, sample.kept_labels, "{} at {seq_length}", sample.name());
            let cut = sample.pieces.iter().any(|piece| piece.is_cut);
            assert_eq!(cut, sample.positions > seq_length, "{} at {seq_length}", sample.name());
        }
    }
}

#[test]
fn records_are_selected() {
    let dir = tempfile::tempdir().unwrap();
    let many: Vec<Value> = (0..30).map(|n| record(&format!("What is {n}?"), "A number.")).collect();
    let probe = probe(
        &dir,
        &[("a.json", Value::from(many)), ("b.json", json!([record("Last?", "Yes.")]))],
        100,
    );
    let names = |selection| -> Vec<String> {
        let data = inspect(&probe, &selection, None).unwrap();
        let names = data.samples.iter().map(|sample| sample.name());
        names.map(|name| name.rsplit('/').next().unwrap().to_owned()).collect()
    };
    let one = |file: Option<&str>, index| Selection::Record {
        file: file.map(str::to_owned),
        index,
    };
    assert_eq!(names(Selection::Spread(3)), ["a.json#0", "a.json#10", "a.json#20"]);
    assert_eq!(names(Selection::Spread(100)).len(), 31);
    assert_eq!(names(one(None, 7)), ["a.json#7"]);
    assert_eq!(names(one(Some("b.json"), 0)), ["b.json#0"]);
    let error = inspect(&probe, &one(Some("b.json"), 1), None).unwrap_err();
    assert!(matches!(error, InspectError::Index { index: 1, len: 1, .. }), "{error}");
    let error = inspect(&probe, &one(Some("c.json"), 0), None).unwrap_err();
    assert!(matches!(error, InspectError::UnknownFile { .. }), "{error}");
}

#[test]
fn a_broken_record_is_shown_with_its_problem() {
    let dir = tempfile::tempdir().unwrap();
    let mut missing = record("<image>\nWhere?", "Nowhere.");
    missing["image"] = json!("nowhere.png");
    let data = all(&probe(&dir, &[("data.json", json!([missing, {"conversations": []}, 7]))], 2048));
    let kinds: Vec<Vec<Kind>> = data
        .samples
        .iter()
        .map(|sample| sample.problems.iter().map(|(kind, _)| *kind).collect())
        .collect();
    assert_eq!(kinds, [[Kind::ImageMissing], [Kind::Conversations], [Kind::NotAnObject]]);
    assert!(!data.samples[0].pieces.is_empty());
    let html = page("Broken", &data);
    assert!(html.contains("there is no file") || html.contains("cannot read"), "{html}");
}

#[test]
fn the_page_is_one_file_that_escapes_the_data() {
    let dir = tempfile::tempdir().unwrap();
    let data = all(&probe(&dir, &[("data.json", Value::from(texts()))], 2048));
    let html = page("Samples of <data>", &data);
    assert!(html.contains("<h1>Samples of &lt;data&gt;</h1>"));
    for absent in ["<script", "http:", "https:", "<b>why", "\u{202e}", "\u{1b}", "@import", "url("] {
        assert!(!html.contains(absent), "{absent:?}");
    }
    // The image, and what the model gets of it.
    assert_eq!(html.matches("src=\"data:image/png;base64,").count(), 2);
    assert!(html.contains("prefers-color-scheme: dark"));
    assert_eq!(html.matches("<article").count(), 4);
    for tag in [
        "article", "span", "div", "figure", "b", "i", "p", "ul", "li", "header", "main", "dl",
    ] {
        let open = html.matches(&format!("<{tag} ")).count() + html.matches(&format!("<{tag}>")).count();
        assert_eq!(open, html.matches(&format!("</{tag}>")).count(), "{tag}");
    }
    let pieces: usize = data.samples.iter().map(|sample| sample.pieces.len()).sum();
    assert_eq!(html.matches(" title=\"token ").count(), pieces);
}
