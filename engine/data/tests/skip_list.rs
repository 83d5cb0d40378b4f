//! Skip list and length index: files that `neva-run data check` writes and training reads.

#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use neva_data::{
    ChatTemplate, DataError, Dataset, FileLengths, ImagePosition, ImageProcessor, LengthIndex, LlavaDataset, LlavaJsonConfig, Reading,
    RecordFile, SkipList, SkippedRecords, Tokenizer,
};
use serde_json::{Value, json};

fn list(file: &str, records: u64, skipped: &[(u64, &str)]) -> SkippedRecords {
    SkippedRecords {
        file: file.to_owned(),
        records,
        skipped: skipped.iter().map(|(record, reason)| (*record, (*reason).to_owned())).collect(),
    }
}

#[test]
fn a_skip_list_is_read_as_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("skip.jsonl");
    let mut expected = SkipList::default();
    expected.insert("aa", list("/data/a.json", 20, &[(3, "image: \"cut\"\n"), (19, "twice")]));
    expected.insert("bb", list("b.jsonl", 1, &[]));
    for _ in 0..2 {
        expected.write(&path).unwrap();
        assert_eq!(SkipList::read(&path).unwrap(), expected);
    }
    assert_eq!(expected.skipped(), 2);
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        concat!(
            "{\"file\":\"/data/a.json\",\"fingerprint\":\"aa\",\"records\":20}\n",
            "{\"fingerprint\":\"aa\",\"record\":3,\"reason\":\"image: \\\"cut\\\"\\n\"}\n",
            "{\"fingerprint\":\"aa\",\"record\":19,\"reason\":\"twice\"}\n",
            "{\"file\":\"b.jsonl\",\"fingerprint\":\"bb\",\"records\":1}\n",
        )
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays");
}

#[test]
fn an_invalid_line_is_reported_by_number() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("skip.jsonl");
    let file = r#"{"file": "a", "fingerprint": "aa", "records": 5}"#;
    for (text, expected) in [
        (format!("{file}\n\n{{\n"), "line 3 is not a line of a skip list: EOF"),
        (
            r#"{"file": "a"}"#.into(),
            "line 1 is not a line of a skip list: missing field `fingerprint`",
        ),
        (
            format!("{file}\n{{\"fingerprint\": \"aa\", \"line\": 1}}"),
            "line 2 is not a line of a skip list: unknown field `line`",
        ),
        (
            r#"{"fingerprint": "aa", "record": 1}"#.into(),
            "line 1 names a fingerprint that no earlier line with `file` has",
        ),
        (
            format!("{file}\n{{\"fingerprint\": \"aa\", \"record\": 5}}"),
            "line 2 names record 5 of a file of 5",
        ),
        (
            r#"{"file": "a", "fingerprint": "aa"}"#.into(),
            "line 1 must have `file` and `records`, or `record` and `reason`",
        ),
        (
            r#"{"fingerprint": "aa"}"#.into(),
            "line 1 must have `file` and `records`, or `record` and `reason`",
        ),
    ] {
        fs::write(&path, text).unwrap();
        let error = SkipList::read(&path).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("skip.jsonl"), "{error}");
    }
    fs::write(&path, [0xff]).unwrap();
    for path in [&path, &folder.path().join("absent")] {
        assert!(matches!(SkipList::read(path), Err(DataError::Read { .. })));
    }
    assert!(matches!(
        SkipList::default().write(&folder.path().join("no/skip")),
        Err(DataError::Write { .. })
    ));
}

fn records(ids: impl IntoIterator<Item = u64>) -> String {
    let record =
        |id: u64| json!({"id": id, "conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": format!("A {id}.")}]});
    Value::Array(ids.into_iter().map(record).collect()).to_string()
}

fn open(paths: &[&Path], skip_list: SkipList) -> Result<LlavaDataset, DataError> {
    let config = LlavaJsonConfig {
        paths: paths.iter().map(|path| path.to_path_buf()).collect(),
        image_folder: None,
        apply_exif: false,
        template: ChatTemplate::named("v1").unwrap(),
        image_token_position: ImagePosition::Keep,
        reads_images: true,
    };
    let reading = Reading {
        skip_list: Some(Arc::new(skip_list)),
        ..Reading::default()
    };
    let tokenizer = Arc::new(Tokenizer::builtin("mistral_2k").unwrap());
    LlavaDataset::open(&config, &reading, tokenizer, ImageProcessor::clip(56))
}

/// Ranks compare it, because ranks with different samples would train on nonsense.
#[test]
fn the_identity_of_samples_follows_from_files_lists_and_broken_records() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.json");
    let mut seen = Vec::new();
    for (content, skipped, expected) in [
        (records(0..3), None, true),
        (records(0..3), Some(0), true),
        (records(0..3), Some(1), true),
        (records(1..4), None, true),
        (records(0..3), None, false),
    ] {
        fs::write(&path, content).unwrap();
        let mut list = SkipList::default();
        list.insert(
            RecordFile::open(&path, None).unwrap().fingerprint(),
            SkippedRecords {
                file: String::new(),
                records: 3,
                skipped: skipped.into_iter().map(|record| (record, String::new())).collect(),
            },
        );
        let identity = open(&[&path], list).unwrap().identity();
        assert_eq!(!seen.contains(&identity), expected, "{skipped:?}");
        seen.push(identity);
    }
}

#[test]
fn listed_records_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a.json"), folder.path().join("b.json"));
    fs::write(&a, records(0..8)).unwrap();
    fs::write(&b, records(10..13)).unwrap();
    let fingerprint = |path: &Path| RecordFile::open(path, None).unwrap().fingerprint();
    let cases: &[(&[u64], &[u64], &[u64])] = &[
        (&[], &[], &[0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12]),
        (&[0, 1, 4, 7], &[1], &[2, 3, 5, 6, 10, 12]),
        (&[0, 1, 2, 3, 4, 5, 6, 7], &[0, 1], &[12]),
        (&[3], &[0, 1, 2], &[0, 1, 2, 4, 5, 6, 7]),
    ];
    for (of_a, of_b, expected) in cases {
        let skipped = |records: &[u64]| records.iter().map(|record| (*record, String::new())).collect::<BTreeMap<_, _>>();
        let mut list = SkipList::default();
        for (path, of, records) in [(&a, of_a, 8), (&b, of_b, 3)] {
            let file = path.display().to_string();
            let skipped = skipped(of);
            list.insert(fingerprint(path), SkippedRecords { file, records, skipped });
        }
        let dataset = open(&[&a, &b], list).unwrap();
        let names: Vec<_> = (0..dataset.len()).map(|index| dataset.get(index).unwrap().name).collect();
        let wanted = expected.iter().map(|id| match id {
            0..10 => format!("{}#{id} (id {id})", a.display()),
            _ => format!("{}#{} (id {id})", b.display(), id - 10),
        });
        assert_eq!(names, wanted.collect::<Vec<_>>());
        let of_file = |range: std::ops::Range<u64>| range.end - range.start;
        let ranges: Vec<_> = dataset.file_ranges().into_iter().map(of_file).collect();
        assert_eq!(ranges, [8 - of_a.len() as u64, 3 - of_b.len() as u64]);
        let left_out = of_a.len() + of_b.len();
        let warnings = if left_out == 0 {
            vec![]
        } else {
            vec![format!("the skip list leaves out {left_out} of 11 records")]
        };
        assert_eq!(dataset.warnings(), warnings);
    }
    let all = |path: &Path, records: u64| {
        let mut list = SkipList::default();
        let skipped = (0..records).map(|record| (record, String::new())).collect();
        list.insert(
            fingerprint(path),
            SkippedRecords {
                file: String::new(),
                records,
                skipped,
            },
        );
        list
    };
    assert!(matches!(open(&[&a], all(&a, 8)), Err(DataError::NoRecords { .. })));
    // The list of another version of the file, or of another file, says nothing about this one.
    let stale = all(&a, 8);
    fs::write(&a, records(1..9)).unwrap();
    let error = open(&[&a], stale).unwrap_err().to_string();
    assert!(
        error.contains("a.json: is not in the skip list, or was changed after the list was written"),
        "{error}"
    );
}

#[test]
fn a_length_index_is_read_as_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lengths");
    let file = |name: &str, lengths: &[u32]| FileLengths {
        file: format!("/data/{name}"),
        fingerprint: name.repeat(8),
        lengths: lengths.to_vec(),
    };
    let index = LengthIndex {
        settings: "v1 mistral".to_owned(),
        files: vec![file("a", &[5, 0, u32::MAX, 10]), file("b", &[]), file("c", &[257])],
    };
    index.write(&path).unwrap();
    let read = LengthIndex::read(&path).unwrap();
    assert_eq!(read, index);
    assert_eq!((read.of("aaaaaaaa"), read.of("a")), (Some(&[5, 0, u32::MAX, 10][..]), None));
    let whole = fs::read(&path).unwrap();
    let header = whole.iter().position(|byte| *byte == b'\n').unwrap();
    let with = |from: &str, to: &str| {
        [
            String::from_utf8_lossy(&whole[..=header]).replace(from, to).as_bytes(),
            &whole[header + 1..],
        ]
        .concat()
    };
    for (content, expected) in [
        (whole[..whole.len() - 1].to_vec(), "its size does not match its header"),
        ([&whole[..], b"x"].concat(), "its size does not match its header"),
        (
            with("\"records\":4", "\"records\":4611686018427387905"),
            "its size does not match its header",
        ),
        (
            with("index 1", "index 2"),
            "its format is `neva length index 2`, expected `neva length index 1`",
        ),
        (whole[1..].to_vec(), "its first line is not the header of a length index"),
        (Vec::new(), "its first line is not the header of a length index"),
    ] {
        fs::write(&path, content).unwrap();
        let error = LengthIndex::read(&path).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("lengths"), "{error}");
    }
}
