//! Check of whole data sets: every planted fault is found at its place, and good records have none.

#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use neva_data::{
    ChatTemplate, CheckError, CheckOptions, CheckReport, Dataset, Finding, ImageCheck, Kind, LengthIndex, Level, LlavaDataset,
    LlavaJsonConfig, MergeOptions, ModelFolders, PreloadedTools, Probe, RgbImage, SkipList, check, merge,
};
use neva_schemas::{ImageDataConfig, LanguageModel, LlavaModel, Model, ModelDescription, NevaPreloadedDataModule};
use serde_json::{Value, json};
use tempfile::TempDir;

const SEQ_LENGTH: usize = 700;

/// A folder with data files and images.
struct Folder {
    dir: TempDir,
    settings: NevaPreloadedDataModule,
    model: ModelDescription,
}

impl Folder {
    /// Creates a folder with the images of `tests/images`, and a recipe's data section for the file `data.jsonl`.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images");
        for entry in fs::read_dir(images).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
        }
        let settings = NevaPreloadedDataModule {
            paths: vec![dir.path().join("data.jsonl")],
            seq_length: SEQ_LENGTH,
            tokenizer: Some("builtin:mistral_2k".to_owned()),
            ..NevaPreloadedDataModule::default()
        };
        Self {
            dir,
            settings,
            model: LlavaModel::default().description(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    /// Writes records to `data.jsonl`.
    fn records(&self, records: &[Value]) {
        let lines: String = records.iter().map(|record| format!("{record}\n")).collect();
        self.write("data.jsonl", lines);
    }

    fn probe(&self) -> Arc<Probe> {
        let tools = PreloadedTools::open(&self.settings, &self.model, ModelFolders::default()).unwrap();
        Arc::new(Probe::new(&self.settings, &self.model, tools))
    }

    fn check(&self, options: &CheckOptions) -> CheckReport {
        check(&self.probe(), options, &mut |_| {}, &|| false).unwrap()
    }
}

fn options() -> CheckOptions {
    CheckOptions {
        workers: 2,
        first: 1000,
        ..CheckOptions::default()
    }
}

fn turns(question: &str, answer: &str) -> Value {
    json!([{"from": "human", "value": question}, {"from": "gpt", "value": answer}])
}

/// Returns a record with an image and a text that no other record has.
fn with_image(image: &str) -> Value {
    json!({"image": image, "conversations": turns(&format!("<image>\nWhat is in {image}?"), "A cat.")})
}

fn text(question: &str, answer: &str) -> Value {
    json!({"conversations": turns(question, answer)})
}

fn findings(report: &CheckReport) -> Vec<&Finding> {
    report.problems.iter().flat_map(|kind| &kind.first).collect()
}

/// Lines of a data file with a fault each: kind, part of the message, line.
fn faults() -> Vec<(Kind, &'static str, Vec<u8>)> {
    let good = r#"[{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Hi."}]"#;
    let long = "word ".repeat(2000);
    let line = |text: &str| text.as_bytes().to_vec();
    let record = |record: Value| record.to_string().into_bytes();
    let latin1 = [
        b"{\"conversations\": [{\"from\": \"human\", \"value\": \"caf".as_slice(),
        b"\xe9",
        b"\"}]}",
    ]
    .concat();
    let seen = text("Twice?", "Yes, twice.");
    vec![
        (Kind::Json, "", line(r#"{"conversations": ["#)),
        (
            Kind::Json,
            "NaN",
            format!(r#"{{"score": NaN, "conversations": {good}}}"#).into_bytes(),
        ),
        (
            Kind::Json,
            "surrogate",
            line(r#"{"conversations": [{"from": "human", "value": "\ud83d"}, {"from": "gpt", "value": "x"}]}"#),
        ),
        (Kind::Encoding, "UTF-8", latin1),
        (Kind::NotAnObject, "must be an object", line("[1, 2]")),
        (Kind::NotAnObject, "must be an object", line("\"text\"")),
        (Kind::Conversations, "missing", record(json!({"id": "no-conversation"}))),
        (
            Kind::Conversations,
            "list",
            record(json!({"conversations": {"from": "human", "value": "Hi?"}})),
        ),
        (Kind::Conversations, "empty", record(json!({"conversations": []}))),
        (
            Kind::Message,
            "message 1",
            record(json!({"conversations": [{"from": "human", "value": "Hi?"}, {"from": "gpt"}]})),
        ),
        (
            Kind::Message,
            "message 0",
            record(json!({"conversations": [{"from": "human", "value": 7}, {"from": "gpt", "value": "x"}]})),
        ),
        (
            Kind::Roles,
            "human",
            record(json!({"conversations": [
                {"from": "human", "value": "One?"}, {"from": "gpt", "value": "1."},
                {"from": "human", "value": "Two?"}, {"from": "human", "value": "Three?"},
            ]})),
        ),
        (
            Kind::ImageField,
            "file name",
            record(json!({"image": 7, "conversations": turns("<image>\nWhat?", "A cat.")})),
        ),
        (
            Kind::ImageCount,
            "2 time(s)",
            record(json!({"image": "gray4.png", "conversations": turns("<image><image>\nWhich?", "Both.")})),
        ),
        (Kind::ImageMissing, "there is no file", record(with_image("nowhere.jpg"))),
        (Kind::ImageUnreadable, "folder", record(with_image("folder"))),
        (Kind::ImageEmpty, "empty", record(with_image("empty.jpg"))),
        (Kind::ImageFormat, "text_named.jpg", record(with_image("text_named.jpg"))),
        (Kind::ImageTruncated, "truncated.jpg", record(with_image("truncated.jpg"))),
        (
            Kind::ImageTruncated,
            "truncated_header.jpg",
            record(with_image("truncated_header.jpg")),
        ),
        (Kind::ImageTruncated, "truncated.png", record(with_image("truncated.png"))),
        (Kind::ImageTruncated, "truncated.gif", record(with_image("truncated.gif"))),
        (Kind::ImageTruncated, "short.bmp", record(with_image("short.bmp"))),
        (Kind::ImageBroken, "colour.png", record(with_image("colour.png"))),
        (Kind::ImageSize, "bomb.png", record(with_image("bomb.png"))),
        (Kind::Truncated, "seq_length is 700", record(text("Say it again?", &long))),
        (Kind::LabelsCut, "behind position 700", record(text(&long, "No."))),
        (Kind::EmptyAnswer, "message 1", record(text("And then?", " \n"))),
        (Kind::ReplacementCharacter, "U+FFFD", record(text("Caf\u{fffd}?", "Yes."))),
        (Kind::Duplicate, "record 0", record(seen)),
        (
            Kind::DuplicateId,
            "record 1",
            record(json!({"id": "first", "conversations": turns("Which id?", "The same.")})),
        ),
    ]
}

/// Records without a fault; the first ones are what repeated ones repeat.
fn good_records() -> Vec<Value> {
    vec![
        text("Twice?", "Yes, twice."),
        json!({"id": "first", "conversations": turns("Whose id?", "Mine.")}),
        json!({"id": 12, "image": ["gray4.png", "jpeg420.jpg"], "conversations": turns("<image>\nand\n<image>?", "Two.")}),
        with_image("progressive.jpg"),
        with_image("png_named.jpg"),
    ]
}

/// A folder with all planted faults after the good records.
fn planted() -> Folder {
    let folder = Folder::new();
    fs::create_dir(folder.path("folder")).unwrap();
    let mut png = fs::read(folder.path("gray4.png")).unwrap();
    png[25] = 9;
    folder.write("colour.png", png);
    let bmp = fs::read(folder.path("rgb24.bmp")).unwrap();
    folder.write("short.bmp", &bmp[..bmp.len() / 2]);
    let mut lines: Vec<Vec<u8>> = good_records().iter().map(|record| record.to_string().into_bytes()).collect();
    lines.extend(faults().into_iter().map(|(_, _, line)| line));
    folder.write("data.jsonl", lines.join(&b'\n'));
    folder
}

#[test]
fn every_planted_fault_is_found_at_its_record() {
    let folder = planted();
    let report = folder.check(&options());
    let (good, faults) = (good_records().len(), faults());
    let kinds: std::collections::BTreeSet<Kind> = faults.iter().map(|(kind, ..)| *kind).collect();
    assert!(kinds.len() >= 20, "{} kinds", kinds.len());
    assert_eq!(report.records as usize, good + faults.len());
    let mut found: BTreeMap<usize, Vec<&Finding>> = BTreeMap::new();
    for finding in findings(&report) {
        found.entry(finding.record.unwrap()).or_default().push(finding);
    }
    for (index, (kind, part, line)) in faults.iter().enumerate() {
        let line = String::from_utf8_lossy(line);
        let of_record = found.remove(&(good + index)).unwrap_or_default();
        assert!(
            of_record
                .iter()
                .any(|finding| finding.kind == *kind && finding.to_string().contains(part)),
            "{kind} {part:?} of {line:.80} is not in {of_record:?}"
        );
        // A fault is reported once, as an error or as a warning.
        let same_level: Vec<_> = of_record.iter().filter(|finding| finding.kind.level() == kind.level()).collect();
        let expected = if *kind == Kind::LabelsCut { 2 } else { 1 };
        assert_eq!(same_level.len(), expected, "{of_record:?}");
    }
    // A record of two images is cut; nothing else is wrong with the good ones.
    let cut = found.remove(&2).unwrap();
    assert!(cut.iter().all(|finding| finding.kind.level() == Level::Warning), "{cut:?}");
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn messages_name_file_record_id_and_field() {
    let folder = planted();
    let report = folder.check(&options());
    let file = folder.path("data.jsonl").display().to_string();
    let missing = findings(&report)
        .into_iter()
        .find(|finding| finding.kind == Kind::ImageMissing)
        .unwrap();
    let record = missing.record.unwrap();
    let path = folder.path("nowhere.jpg").display().to_string();
    assert_eq!(
        missing.to_string(),
        format!("{file}: record {record}, image: there is no file {path}")
    );
    let id = findings(&report)
        .into_iter()
        .find(|finding| finding.kind == Kind::DuplicateId)
        .unwrap();
    assert!(id.to_string().ends_with(" (id first), id: is the id of record 1, too"), "{id}");
    assert!(report.problems.iter().all(|kind| !kind.help.is_empty()));
}

#[test]
fn a_run_without_the_records_of_the_skip_list_has_no_error() {
    let folder = planted();
    let skip_list = folder.path("lists/skip.jsonl");
    let options = CheckOptions {
        skip_list: Some(skip_list.clone()),
        ..options()
    };
    let report = folder.check(&options);
    assert_eq!(report.skip_list.as_deref(), Some(&*skip_list));
    let list = SkipList::read(&skip_list).unwrap();
    let skipped = list.of(report.files[0].fingerprint.as_ref().unwrap()).unwrap();
    assert_eq!((skipped.records, skipped.skipped.len() as u64), (report.records, report.skipped));
    assert_eq!(report.skipped, report.broken_records);
    let lines = fs::read(folder.path("data.jsonl")).unwrap();
    let kept = lines.split(|byte| *byte == b'\n').enumerate();
    let kept = kept.filter(|(index, _)| !skipped.skipped.contains_key(&(*index as u64)));
    let kept: Vec<Value> = kept.map(|(_, line)| serde_json::from_slice(line).unwrap()).collect();
    assert_eq!(kept.len() as u64, report.records - report.broken_records);
    let samples = load(&folder, &kept);
    for index in 0..samples.len() {
        samples.get(index).unwrap();
    }
}

/// A list tells files by their content, so the duplicates of a copy must not take its records out of both.
#[test]
fn a_copy_of_a_file_leaves_the_first_one_in_use() {
    let mut folder = Folder::new();
    folder.records(&[text("One?", "1."), text("Two?", "2."), text("Two?", "2.")]);
    let copy = folder.path("copy.jsonl");
    fs::copy(folder.path("data.jsonl"), &copy).unwrap();
    folder.settings.paths.push(copy);
    let skip_list = folder.path("skip.jsonl");
    let report = folder.check(&CheckOptions {
        skip_list: Some(skip_list.clone()),
        skip: vec![Kind::Duplicate],
        ..options()
    });
    let list = SkipList::read(&skip_list).unwrap();
    let skipped = list.of(report.files[0].fingerprint.as_ref().unwrap()).unwrap();
    assert_eq!(skipped.skipped.keys().collect::<Vec<_>>(), [&2]);
}

/// Returns the dataset of these records, as a run reads it.
fn load(folder: &Folder, records: &[Value]) -> LlavaDataset {
    let file = folder.path("kept.json");
    folder.write("kept.json", Value::from(records.to_vec()).to_string());
    let tools = PreloadedTools::open(&folder.settings, &folder.model, ModelFolders::default()).unwrap();
    let config = LlavaJsonConfig::from_settings(&folder.settings, &folder.model, ChatTemplate::named("v1").unwrap(), &[file]);
    LlavaDataset::load(&config, tools.tokenizer, tools.processor).unwrap()
}

#[test]
fn warnings_are_skipped_on_request() {
    let folder = planted();
    let options = CheckOptions {
        skip_list: Some(folder.path("skip.jsonl")),
        skip: vec![Kind::Duplicate, Kind::LabelsCut],
        ..options()
    };
    let report = folder.check(&options);
    let count = |kind: Kind| {
        report
            .problems
            .iter()
            .find(|report| report.kind == kind)
            .map_or(0, |report| report.count)
    };
    assert_eq!(
        report.skipped,
        report.broken_records + count(Kind::Duplicate) + count(Kind::LabelsCut)
    );
    assert!(count(Kind::Duplicate) > 0 && count(Kind::LabelsCut) > 0);
    let list = fs::read_to_string(folder.path("skip.jsonl")).unwrap();
    assert!(list.contains("labels_cut: all ") && list.contains("duplicate: has "), "{list}");
}

#[test]
fn a_fault_of_a_whole_file_is_found() {
    let good = json!([text("Hi?", "Hi.")]).to_string();
    let utf16: Vec<u8> = [0xff, 0xfe]
        .into_iter()
        .chain(good.encode_utf16().flat_map(u16::to_le_bytes))
        .collect();
    let cases: [(&str, Vec<u8>, Kind, &str); 8] = [
        ("data.json", utf16, Kind::Encoding, "UTF-16"),
        ("data.json", b"".to_vec(), Kind::Json, ""),
        ("data.json", b"{\"conversations\": []}".to_vec(), Kind::Json, "list"),
        ("data.json", good.replace(']', "").into_bytes(), Kind::Json, ""),
        ("data.json", format!("{good} and more").into_bytes(), Kind::Json, ""),
        ("data.json", b"[{} {}]".to_vec(), Kind::Json, ""),
        ("data.json", b"[]".to_vec(), Kind::NoRecords, "no record"),
        ("data.jsonl", good.into_bytes(), Kind::Json, ".json"),
    ];
    for (name, content, kind, part) in cases {
        let mut folder = Folder::new();
        folder.settings.paths = vec![folder.path(name)];
        folder.write(name, &content);
        let report = folder.check(&options());
        let found = findings(&report);
        let shown = String::from_utf8_lossy(&content);
        assert!(
            found
                .iter()
                .any(|finding| finding.kind == kind && finding.to_string().contains(part)),
            "{shown}: {found:?}"
        );
        assert!(report.errors > 0, "{shown}");
    }
}

#[test]
fn a_missing_file_and_a_folder_are_found() {
    let mut folder = Folder::new();
    folder.settings.paths = vec![folder.path("nowhere.json"), folder.dir.path().to_owned()];
    let report = folder.check(&options());
    let found: Vec<_> = findings(&report)
        .into_iter()
        .map(|finding| (finding.kind, finding.record))
        .collect();
    assert_eq!(found, [(Kind::Unreadable, None), (Kind::Unreadable, None)]);
}

#[test]
fn faults_of_the_whole_data_are_found() {
    let mut folder = Folder::new();
    folder.records(&[
        text("A question of some words?", "Yes."),
        text("Another question of some words?", "No."),
    ]);
    folder.settings.seq_length = 4;
    let report = folder.check(&options());
    let kinds: Vec<_> = report.problems.iter().map(|kind| (kind.kind, kind.count)).collect();
    assert_eq!(kinds, [(Kind::Unlabelled, 1), (Kind::LabelsCut, 2), (Kind::Truncated, 2)]);

    let mut folder = Folder::new();
    folder.records(&[text("One?", "1."), text("Two?", "2.")]);
    folder.write(
        "val.json",
        json!([text("Two?", "2."), text("Three?", "3."), text("Three?", "3.")]).to_string(),
    );
    folder.settings.val_paths = vec![folder.path("val.json")];
    let report = folder.check(&options());
    let found: Vec<_> = findings(&report)
        .into_iter()
        .map(|finding| (finding.kind, finding.record))
        .collect();
    assert_eq!(found, [(Kind::Duplicate, Some(2)), (Kind::InBothSplits, Some(0))]);
}

#[test]
fn a_model_without_vision_refuses_images() {
    let mut folder = Folder::new();
    folder.model = Model::Llama(LanguageModel::default()).description();
    folder.records(&[text("Hi?", "Hi."), with_image("gray4.png")]);
    let report = folder.check(&options());
    let found: Vec<_> = findings(&report)
        .into_iter()
        .map(|finding| (finding.kind, finding.record))
        .collect();
    assert_eq!(found, [(Kind::ImageUnwanted, Some(1))]);
}

#[test]
fn a_template_that_cannot_render_is_reported() {
    let mut folder = Folder::new();
    folder.settings.data_config = ImageDataConfig {
        conv_template: Some("plain".to_owned()),
        ..ImageDataConfig::default()
    };
    folder.records(&[with_image("gray4.png"), text("No image?", "None.")]);
    let report = folder.check(&options());
    let found: Vec<_> = findings(&report)
        .into_iter()
        .map(|finding| (finding.kind, finding.record))
        .collect();
    assert_eq!(found, [(Kind::Template, Some(1))]);
}

/// Images whose damage is within their compressed data.
const HIDDEN: &[&str] = &["bad_adler.png", "bad_text_crc.png", "interrupted_data.png"];

/// For every image of the tests, the check and the decoder of the training agree.
#[test]
fn images_are_judged_as_the_decoder_judges_them() {
    let folder = Folder::new();
    let mut names: Vec<String> = fs::read_dir(folder.dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let records: Vec<Value> = names.iter().map(|name| with_image(name)).collect();
    folder.records(&records);
    for images in [ImageCheck::Header, ImageCheck::Decode] {
        let report = folder.check(&CheckOptions { images, ..options() });
        let broken: Vec<usize> = findings(&report)
            .into_iter()
            .filter(|finding| finding.kind.level() == Level::Error)
            .filter_map(|finding| finding.record)
            .collect();
        let (mut errors, mut found_differently) = (0, Vec::new());
        for (index, name) in names.iter().enumerate() {
            let decoded = RgbImage::open(&folder.path(name));
            // Damage within compressed data is not seen in a header.
            let is_hidden = images == ImageCheck::Header && HIDDEN.contains(&name.as_str());
            assert!(decoded.is_err() || !is_hidden, "{name}");
            errors += usize::from(decoded.is_err() && !is_hidden);
            found_differently.extend((broken.contains(&index) != (decoded.is_err() && !is_hidden)).then_some((images, name)));
        }
        assert_eq!(found_differently, []);
        assert!(errors >= 6, "{errors} broken images");
        let files = report.images.formats.values().sum::<u64>() as usize;
        assert_eq!((files, report.images.files as usize), (names.len() - errors, names.len()));
    }
}

/// What training takes with a change, and logs, is no problem.
#[test]
fn records_that_are_taken_with_a_change_are_counted() {
    let folder = Folder::new();
    let image = fs::read_dir(folder.dir.path()).unwrap().next().unwrap().unwrap().file_name();
    let unmarked = json!({"image": image.to_str().unwrap(), "conversations": turns("What is it?", "A cat.")});
    folder.records(&[unmarked, text("What does <image> mean?", "A mark.")]);
    let report = folder.check(&CheckOptions {
        images: ImageCheck::Skip,
        ..options()
    });
    assert_eq!((report.errors, report.warnings), (0, 0), "{:?}", findings(&report));
    let starts: Vec<_> = report.notes.iter().map(|note| note.split(':').next().unwrap()).collect();
    let expected = [
        "1 record(s) have images but no `<image>` in their text",
        "1 record(s) have `<image>` in their text but no image",
    ];
    assert_eq!(starts, expected);
}

#[test]
fn images_may_be_on_another_machine() {
    let folder = planted();
    let options = CheckOptions {
        images: ImageCheck::Skip,
        ..options()
    };
    let report = folder.check(&options);
    let of_images = |kind: &Kind| kind.name().starts_with("image_") && !matches!(kind, Kind::ImageField | Kind::ImageCount);
    assert!(!report.problems.iter().any(|kind| of_images(&kind.kind)), "{:?}", report.problems);
    let with_images = report.lengths.image_positions / 576;
    assert!(with_images > 10, "{with_images} images have positions");
}

#[test]
fn lengths_are_those_of_the_training() {
    let mut folder = Folder::new();
    folder.settings.seq_length = 1000;
    let records = good_records();
    folder.records(&records);
    let index = folder.path("lengths.bin");
    let options = CheckOptions {
        length_index: Some(index.clone()),
        ..options()
    };
    let report = folder.check(&options);
    let dataset = load(&folder, &records);
    let merge_options = |max_length| MergeOptions {
        image_seq_len: 576,
        max_length,
        row_multiple: 1,
        fixed_length: false,
        packed: false,
    };
    let (mut lengths, mut labels, mut kept) = (Vec::new(), 0, 0);
    for n in 0..dataset.len() {
        let sample = dataset.get_without_pixels(n).unwrap();
        let whole = merge(&[sample.sequence()], &merge_options(1 << 20)).unwrap();
        lengths.push(whole.seq_lens()[0] as u32);
        labels += whole.total_labels() as u64;
        kept += merge(&[sample.sequence()], &merge_options(1000)).unwrap().total_labels() as u64;
    }
    let written = LengthIndex::read(&index).unwrap();
    assert_eq!(written.of(report.files[0].fingerprint.as_ref().unwrap()), Some(&*lengths));
    let counted = &report.lengths;
    assert_eq!((counted.labels, counted.labels - counted.labels_cut), (labels, kept));
    assert_eq!(counted.max, u64::from(*lengths.iter().max().unwrap()));
    assert_eq!(counted.min, u64::from(*lengths.iter().min().unwrap()));
    let total: u64 = lengths.iter().map(|length| u64::from(*length)).sum();
    assert_eq!(counted.text_positions + counted.image_positions, total);
    assert_eq!(counted.image_positions, 4 * 576);
    assert_eq!(counted.truncated, 1);
    assert_eq!(counted.histogram.iter().map(|range| range.samples).sum::<u64>(), 5);
    assert_eq!(
        counted.histogram.last().map(|range| (range.from, range.to, range.samples)),
        Some((1001, None, 1))
    );
}

#[test]
fn the_result_does_not_depend_on_the_number_of_threads() {
    let folder = Folder::new();
    let many: Vec<Value> = (0..1000)
        .map(|n| match n % 7 {
            0 => with_image("gray4.png"),
            1 => json!({"id": n % 50, "conversations": []}),
            _ => text(&format!("What is {n}?"), "A number."),
        })
        .collect();
    folder.records(&many);
    let result = |workers| {
        let mut report = folder.check(&CheckOptions { workers, ..options() });
        (report.workers, report.seconds) = (0, 0.0);
        report
    };
    let one = result(1);
    assert_eq!(one.records, 1000);
    assert!(one.errors > 100 && one.warnings > 100);
    assert_eq!(one, result(5));
}

#[test]
fn only_the_first_problems_of_a_kind_are_kept() {
    let folder = Folder::new();
    folder.records(&vec![json!({"conversations": []}); 300]);
    let report = folder.check(&CheckOptions { first: 3, ..options() });
    let kind = &report.problems[0];
    let records: Vec<_> = kind.first.iter().map(|finding| finding.record).collect();
    assert_eq!((kind.count, records), (300, vec![Some(0), Some(1), Some(2)]));
}

#[test]
fn an_unchanged_result_is_reused() {
    let folder = Folder::new();
    folder.records(&[text("Hi?", "Hi."), with_image("gray4.png"), with_image("nowhere.png")]);
    let cached = CheckOptions {
        cache: Some(folder.path("cache")),
        ..options()
    };
    let first = folder.check(&cached);
    assert!(!first.cached);
    let again = folder.check(&CheckOptions {
        skip_list: Some(folder.path("skip.jsonl")),
        length_index: Some(folder.path("lengths.bin")),
        ..cached.clone()
    });
    assert!(again.cached);
    assert_eq!((again.errors, &again.problems), (1, &first.problems));
    assert_eq!(SkipList::read(&folder.path("skip.jsonl")).unwrap().skipped(), 1);
    assert_eq!(LengthIndex::read(&folder.path("lengths.bin")).unwrap().files[0].lengths.len(), 3);

    // Each change is seen: of an image, of a missing image, of a setting, of an option, of the records.
    folder.write("gray4.png", "changed");
    assert_eq!(folder.check(&cached).errors, 2);
    fs::copy(folder.path("rgba8.png"), folder.path("nowhere.png")).unwrap();
    assert_eq!(folder.check(&cached).errors, 1);
    assert!(folder.check(&cached).cached);
    let mut other = Folder {
        settings: folder.settings.clone(),
        ..folder
    };
    other.settings.seq_length = 5;
    assert!(!other.check(&cached).cached);
    other.settings.seq_length = SEQ_LENGTH;
    assert!(other.check(&cached).cached);
    let decoded = CheckOptions {
        images: ImageCheck::Decode,
        ..cached.clone()
    };
    assert!(!other.check(&decoded).cached);
    other.records(&[text("Hi?", "Hi.")]);
    let report = other.check(&cached);
    assert_eq!((report.cached, report.errors, report.records), (false, 0, 1));
}

#[test]
fn a_stopped_check_writes_nothing() {
    let folder = Folder::new();
    folder.records(&vec![text("Hi?", "Hi."); 5000]);
    let options = CheckOptions {
        skip_list: Some(folder.path("skip.jsonl")),
        cache: Some(folder.path("cache")),
        ..options()
    };
    let mut seen = 0;
    let stopped = std::cell::Cell::new(false);
    let result = check(
        &folder.probe(),
        &options,
        &mut |progress| {
            seen = progress.records;
            assert_eq!(progress.total, 5000);
            stopped.set(progress.records > 0);
        },
        &|| stopped.get(),
    );
    assert!(
        matches!(result, Err(CheckError::Stopped { records }) if records == seen && seen < 5000),
        "{seen}"
    );
    assert!(!folder.path("skip.jsonl").exists());
    assert_eq!(fs::read_dir(folder.path("cache")).unwrap().count(), 0);
}

#[test]
fn names_of_kinds_are_unique_and_those_of_documents() {
    for kind in Kind::ALL {
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        assert_eq!(Kind::named(kind.name()), Some(*kind));
        assert!(!kind.help().is_empty());
    }
    assert!(Kind::ALL.is_sorted());
    assert_eq!(Kind::named("nothing"), None);
}
