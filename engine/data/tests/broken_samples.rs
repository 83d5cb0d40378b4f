//! Broken records and images: they end a run, or are skipped in the same way on all ranks.

#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use neva_data::{
    Broken, ChatTemplate, DataError, Dataset, ImagePosition, ImageProcessor, LlavaDataset, LlavaJsonConfig, Order, PreloadedData,
    PreloadedTools, Reading, Sample, SkipBroken, Tokenizer, WithoutPixels,
};
use neva_schemas::{ImageDataConfig, LlavaModel, NevaPreloadedDataModule, OnError};
use serde_json::{Value, json};

/// Kind of a record in a file.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Whole,
    Text,
    /// Its image cannot be decoded.
    BrokenImage,
    /// Its image is not there.
    MissingImage,
    /// It is not a conversation.
    Invalid,
    /// It is not JSON.
    NotJson,
}

use Kind::{BrokenImage, Invalid, MissingImage, NotJson, Text, Whole};

/// Writes a file with records of these kinds, whose ids are their numbers, and its images into `images`.
fn write(path: &Path, images: &Path, kinds: &[Kind]) {
    fs::create_dir_all(images).unwrap();
    fs::copy(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/processing/dot.png"),
        images.join("dot.png"),
    )
    .unwrap();
    fs::write(images.join("broken.png"), "not an image").unwrap();
    let turns = |question: &str| json!([{"from": "human", "value": question}, {"from": "gpt", "value": "A."}]);
    let record = |(id, kind): (usize, &Kind)| match kind {
        Whole => json!({"id": id, "image": "dot.png", "conversations": turns("<image>?")}).to_string(),
        Text => json!({"id": id, "conversations": turns("?")}).to_string(),
        BrokenImage => json!({"id": id, "image": "broken.png", "conversations": turns("<image>?")}).to_string(),
        MissingImage => json!({"id": id, "image": "absent.png", "conversations": turns("<image>?")}).to_string(),
        Invalid => json!({"id": id, "conversations": []}).to_string(),
        NotJson => format!("{{\"id\": {id}, \"score\": NaN}}"),
    };
    let records: Vec<_> = kinds.iter().enumerate().map(record).collect();
    fs::write(path, format!("[{}]", records.join(",\n"))).unwrap();
}

fn config(path: &Path, images: &Path) -> LlavaJsonConfig {
    LlavaJsonConfig {
        paths: vec![path.to_owned()],
        image_folder: Some(images.to_owned()),
        apply_exif: false,
        template: ChatTemplate::named("v1").unwrap(),
        image_token_position: ImagePosition::Keep,
        reads_images: true,
    }
}

fn open(path: &Path, images: &Path, broken: Broken) -> Result<LlavaDataset, DataError> {
    let reading = Reading {
        broken,
        ..Reading::default()
    };
    let tokenizer = Arc::new(Tokenizer::builtin("mistral_2k").unwrap());
    LlavaDataset::open(&config(path, images), &reading, tokenizer, ImageProcessor::clip(56))
}

fn skipping(path: &Path, images: &Path, max_skipped: usize) -> Result<SkipBroken, DataError> {
    let dataset = open(path, images, Broken::Skip(max_skipped))?;
    let known = dataset.broken().to_vec();
    Ok(SkipBroken::new(Arc::new(dataset), known, max_skipped))
}

/// Returns the id in the name of a sample.
fn id(sample: &Sample) -> usize {
    let name = sample.name.split("(id ").nth(1).unwrap_or(&sample.name);
    name.trim_end_matches(')').parse().unwrap()
}

/// Each sample is itself or the next whole one, with pixels and without, in any order of reading.
#[test]
fn a_broken_sample_is_replaced_by_the_next_whole_one() {
    let folder = tempfile::tempdir().unwrap();
    let (path, images) = (folder.path().join("data.json"), folder.path().join("images"));
    let cases: &[(&[Kind], &[usize], &[usize])] = &[
        (&[Whole, Text, Whole], &[0, 1, 2], &[]),
        (&[Whole, BrokenImage, Text], &[0, 2, 2], &[1]),
        (
            &[BrokenImage, Invalid, MissingImage, NotJson, Whole, Text],
            &[4, 4, 4, 4, 4, 5],
            &[0, 1, 2, 3],
        ),
        (&[Text, Whole, NotJson, BrokenImage], &[0, 1, 0, 0], &[2, 3]),
    ];
    for (kinds, expected, broken) in cases {
        write(&path, &images, kinds);
        let reads = |order: &[usize]| {
            let dataset = Arc::new(skipping(&path, &images, 4).unwrap());
            let mut ids = vec![0; kinds.len()];
            for index in order {
                ids[*index] = id(&dataset.get(*index).unwrap());
            }
            assert_eq!(dataset.broken(), *broken);
            ids
        };
        assert_eq!(reads(&(0..kinds.len()).collect::<Vec<_>>()), *expected);
        assert_eq!(reads(&(0..kinds.len()).rev().collect::<Vec<_>>()), *expected);
        // A rank without a vision encoder finds the same images broken, although it does not use them.
        let dataset = Arc::new(skipping(&path, &images, 4).unwrap());
        let without = WithoutPixels(Arc::clone(&dataset) as Arc<dyn Dataset>);
        for (index, expected) in expected.iter().enumerate() {
            let sample = without.get(index).unwrap();
            assert_eq!(id(&sample), *expected);
            assert!(sample.images.iter().all(|image| image.chw.is_empty()));
        }
        assert_eq!((dataset.broken(), dataset.len()), (broken.to_vec(), kinds.len()));
        // An epoch has the same positions as without broken samples.
        let order = Order {
            seed: 3,
            len: kinds.len() as u64,
            shuffle: true,
        };
        assert_eq!(dataset.order(3, true).index(5), order.index(5));
    }
}

#[test]
fn the_limit_counts_records_and_images() {
    let folder = tempfile::tempdir().unwrap();
    let (path, images) = (folder.path().join("data.json"), folder.path().join("images"));
    write(&path, &images, &[Whole, Invalid, BrokenImage, NotJson, BrokenImage, Text]);
    // Two records are broken when the file is opened.
    let error = skipping(&path, &images, 1).err().unwrap().to_string();
    assert!(
        error.starts_with("2 broken samples are more than max_skipped 1: mend the data"),
        "{error}"
    );
    assert!(
        error.contains("record 1 (id 1), conversations: is empty") && error.contains("`NaN` is not JSON"),
        "{error}"
    );
    // The two images count when they are read, each one once.
    let dataset = skipping(&path, &images, 3).unwrap();
    assert_eq!(id(&dataset.get(4).unwrap()), 5);
    assert_eq!(id(&dataset.get(4).unwrap()), 5);
    assert_eq!(dataset.broken(), [1, 3, 4]);
    let error = dataset.get(2).unwrap_err().to_string();
    assert!(
        error.starts_with("4 broken samples are more than max_skipped 3") && error.contains("(id 2)"),
        "{error}"
    );
    // Without the policy the first one ends the run.
    let error = open(&path, &images, Broken::Fail).unwrap_err();
    assert!(matches!(&error, DataError::Records { problems } if problems.len() == 2), "{error}");
}

#[test]
fn broken_records_are_listed_in_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let (path, images) = (folder.path().join("data.json"), folder.path().join("images"));
    write(&path, &images, &[Whole, Invalid, NotJson]);
    let dataset = open(&path, &images, Broken::Skip(2)).unwrap();
    let shown = dataset.warnings().join("\n").replace(path.to_str().unwrap(), "PATH");
    assert_eq!(
        shown,
        "skips 2 broken of 3 records and uses the next one instead:\n  PATH: record 1 (id 1), conversations: is empty\n  PATH: record 2: \
         `NaN` is not JSON: write null, or leave the field out (byte 159 of the file)"
    );
}

/// A lost folder would otherwise replace most of the data.
#[test]
fn a_missing_folder_or_file_is_never_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let (path, images) = (folder.path().join("data.json"), folder.path().join("images"));
    write(&path, &images, &[Whole, Text, Whole]);
    let absent = folder.path().join("absent");
    for broken in [Broken::Fail, Broken::Skip(100)] {
        let error = open(&path, &absent, broken).unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "there is no image folder {}: set finetune.data.data_config.image_folder",
                absent.display()
            )
        );
        let error = LlavaDataset::check_first(&config(&path, &absent), broken).unwrap_err();
        assert!(matches!(error, DataError::NoImageFolder { .. }), "{error}");
        let error = open(&folder.path().join("no.json"), &images, broken).unwrap_err().to_string();
        assert!(error.contains("no.json: cannot be read"), "{error}");
    }
    // The wrong folder: it has none of the images.
    fs::create_dir(&absent).unwrap();
    assert!(matches!(open(&path, &absent, Broken::Skip(100)), Err(DataError::Records { .. })));
    // Nothing is left.
    write(&path, &images, &[Invalid, MissingImage]);
    assert!(matches!(open(&path, &images, Broken::Skip(100)), Err(DataError::Records { .. })));
    // The folder is lost while the run reads it.
    write(&path, &images, &[Text, Whole, Whole]);
    let dataset = skipping(&path, &images, 100).unwrap();
    fs::remove_dir_all(&images).unwrap();
    assert!(matches!(dataset.get(1), Err(DataError::NoImageFolder { .. })));
    // A file of records that ends in the middle.
    fs::write(&path, "[{}").unwrap();
    assert!(matches!(open(&path, &images, Broken::Skip(100)), Err(DataError::Records { .. })));
}

/// Errors that may be those of one machine would make ranks disagree.
#[test]
fn only_errors_of_a_samples_content_are_skipped() {
    let read = |kind| DataError::Read {
        path: PathBuf::from("a.png"),
        error: std::io::Error::from(kind),
    };
    let in_sample = |error| DataError::Sample {
        sample: "s".to_owned(),
        error: Box::new(error),
    };
    let image = || DataError::Image {
        name: "a.png".to_owned(),
        reason: "cut".to_owned(),
    };
    for (error, expected) in [
        (image(), true),
        (in_sample(image()), true),
        (DataError::Records { problems: vec![] }, true),
        (read(std::io::ErrorKind::NotFound), true),
        (read(std::io::ErrorKind::PermissionDenied), false),
        (in_sample(read(std::io::ErrorKind::TimedOut)), false),
        (DataError::NoImageFolder { folder: PathBuf::new() }, false),
        (DataError::Index { index: 1, len: 1 }, false),
        (DataError::EmptyBatch, false),
    ] {
        assert_eq!(error.is_of_one_sample(), expected, "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let (path, images) = (folder.path().join("data.json"), folder.path().join("images"));
    write(&path, &images, &[Text, Text]);
    let dataset = skipping(&path, &images, 100).unwrap();
    assert!(matches!(dataset.get(2), Err(DataError::Index { index: 2, len: 2 })));
    fs::write(&path, "[]").unwrap();
    assert!(matches!(dataset.get(0), Err(DataError::Read { .. })), "the file was changed");
}

/// The preflight looks at the first records only, and must not refuse what the ranks accept.
#[test]
fn the_first_records_are_checked_by_the_policy() {
    let folder = tempfile::tempdir().unwrap();
    let (path, images) = (folder.path().join("data.json"), folder.path().join("images"));
    write(&path, &images, &[Invalid, NotJson, MissingImage, MissingImage]);
    assert!(
        matches!(LlavaDataset::check_first(&config(&path, &images), Broken::Fail), Err(DataError::Records { problems }) if problems.len() == 4)
    );
    LlavaDataset::check_first(&config(&path, &images), Broken::Skip(0)).unwrap();
    fs::write(&path, "{}").unwrap();
    assert!(LlavaDataset::check_first(&config(&path, &images), Broken::Skip(9)).is_err());
}

/// Opens the data of a run with these settings, and returns the ids of training and validation samples.
fn ids_of_run(data: &NevaPreloadedDataModule, cache: &Path) -> Result<(PreloadedData, Vec<usize>, Vec<usize>), DataError> {
    let model = LlavaModel::default().description();
    let tools = PreloadedTools::open(data, &model, neva_data::ModelFolders::default()).unwrap();
    let run = PreloadedData::open(data, &model, &tools, Some(cache))?;
    let ids = |dataset: &dyn Dataset| (0..dataset.len()).map(|index| id(&dataset.get(index).unwrap())).collect::<Vec<_>>();
    let (train, val) = (ids(&*run.train), run.val.as_deref().map(ids).unwrap_or_default());
    Ok((run, train, val))
}

#[test]
fn settings_of_a_run_select_samples_and_order() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b, images) = (
        folder.path().join("a.json"),
        folder.path().join("b.json"),
        folder.path().join("images"),
    );
    let mut kinds = vec![Text; 12];
    (kinds[3], kinds[7]) = (Invalid, NotJson);
    write(&a, &images, &kinds);
    let more: Value = serde_json::from_str(r#"[{"from": "human", "value": "?"}, {"from": "gpt", "value": "A."}]"#).unwrap();
    let records: Vec<_> = (100..108).map(|id| json!({"id": id, "conversations": more})).collect();
    fs::write(&b, Value::Array(records).to_string()).unwrap();
    let data = NevaPreloadedDataModule {
        paths: vec![a, b],
        tokenizer: Some("builtin:mistral_2k".to_owned()),
        data_config: ImageDataConfig {
            image_folder: Some(images),
            ..ImageDataConfig::default()
        },
        on_error: OnError::Skip,
        seed: 5,
        ..NevaPreloadedDataModule::default()
    };
    let cache = folder.path().join("cache");
    let (run, train, val) = ids_of_run(&data, &cache).unwrap();
    let expected = [0, 1, 2, 4, 4, 5, 6, 8, 8, 9, 10, 11, 100, 101, 102, 103, 104, 105, 106, 107];
    assert_eq!((train, val), (expected.to_vec(), vec![]));
    assert!(
        run.warnings.len() == 1 && run.warnings[0].starts_with("skips 2 broken of 20 records"),
        "{:?}",
        run.warnings
    );
    assert_eq!(fs::read_dir(&cache).unwrap().count(), 2, "an index for each file");

    // Training and validation stay apart, although samples of both are replaced.
    let halved = NevaPreloadedDataModule {
        val_split: 0.5,
        ..data.clone()
    };
    let (_, train, val) = ids_of_run(&halved, &cache).unwrap();
    assert_eq!((train.len(), val.len()), (10, 10));
    assert!(train.iter().all(|id| !val.contains(id)), "{train:?} {val:?}");

    // A weight of 3/4 for the second file, whose training samples are at the end.
    let weighted = NevaPreloadedDataModule {
        weights: Some(vec![1.0, 3.0]),
        ..halved
    };
    let (run, again, _) = ids_of_run(&weighted, &cache).unwrap();
    assert_eq!(again, train);
    let order = run.train.order(5, true);
    let second = (0..10).filter(|position| train[order.index(*position) as usize] >= 100).count();
    assert!(second == 7 || second == 8, "{second}");

    let strict = NevaPreloadedDataModule {
        on_error: OnError::Fail,
        ..data.clone()
    };
    assert!(matches!(ids_of_run(&strict, &cache), Err(DataError::Records { problems }) if problems.len() == 2));
    let few = NevaPreloadedDataModule {
        max_skipped: Some(1),
        ..data.clone()
    };
    assert!(matches!(
        ids_of_run(&few, &cache),
        Err(DataError::TooManyBroken {
            skipped: 2,
            max_skipped: 1,
            ..
        })
    ));
    let listed = NevaPreloadedDataModule {
        skip_list: Some(folder.path().join("absent")),
        ..data
    };
    assert!(matches!(ids_of_run(&listed, &cache), Err(DataError::Read { .. })));
}
