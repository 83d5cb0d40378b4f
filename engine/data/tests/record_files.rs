//! Record files: every form and encoding, and the saved index.

#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use neva_data::RecordFile;
use serde::Deserialize;
use serde_json::{Value, json};

const CASES: &str = include_str!("record_files/cases.json");

/// A file and what opening and reading it gives.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    text: Option<String>,
    hex: Option<String>,
    file: Option<String>,
    /// All records.
    values: Option<Vec<Value>>,
    count: Option<usize>,
    /// Reasons of the records that are not JSON; all others are.
    invalid: Option<BTreeMap<usize, String>>,
    /// Problem of the whole file.
    problem: Option<String>,
}

impl Case {
    fn bytes(&self) -> Vec<u8> {
        if let Some(file) = &self.file {
            return fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/record_files").join(file)).unwrap();
        }
        let hex = |hex: &String| {
            (0..hex.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
                .collect()
        };
        self.hex.as_ref().map_or_else(|| self.text.clone().unwrap().into_bytes(), hex)
    }
}

/// Reads all records twice, one by one and in order, which must agree.
fn records(file: &RecordFile) -> Vec<Result<Value, String>> {
    let single: Vec<_> = (0..file.len())
        .map(|index| file.value(index).map_err(|error| error.to_string()))
        .collect();
    let mut all = Vec::new();
    file.each(|index, value| {
        assert_eq!(index, all.len());
        all.push(value);
        true
    })
    .unwrap();
    assert_eq!(single, all);
    single
}

#[test]
fn every_form_and_encoding_is_read_or_explained() {
    let cases: Vec<Case> = serde_json::from_str(CASES).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let mut wrong = Vec::new();
    for case in &cases {
        let path = folder.path().join(&case.name);
        fs::write(&path, case.bytes()).unwrap();
        let shown = |text: String| text.replace(path.to_str().unwrap(), "PATH");
        // The first time the file is scanned, the second time there is a saved index.
        for _ in 0..2 {
            let found = match RecordFile::open(&path, Some(&cache)) {
                Err(problem) => Err(shown(problem.to_string())),
                Ok(file) => {
                    assert_eq!(file.fingerprint(), blake3::hash(&case.bytes()).to_hex().to_string());
                    Ok(records(&file).into_iter().map(|value| value.map_err(shown)).collect::<Vec<_>>())
                }
            };
            let as_expected = match &found {
                Err(problem) => case.problem.as_ref() == Some(problem),
                Ok(records) => {
                    let invalid = (0..).zip(records).filter_map(|(index, value)| Some((index, value.clone().err()?)));
                    let values = case.values.as_ref().map(|values| values.iter().cloned().map(Ok).collect());
                    case.problem.is_none()
                        && values.is_none_or(|values: Vec<_>| values == *records)
                        && case.count.is_none_or(|count| count == records.len())
                        && invalid.collect::<BTreeMap<usize, String>>() == case.invalid.clone().unwrap_or_default()
                }
            };
            if !as_expected {
                wrong.push(format!("{}: {found:#?}", case.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_file_that_cannot_be_read_has_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    for (path, expected) in [
        ("absent.json", "cannot be read: No such file"),
        (".", "cannot be read: Is a directory"),
    ] {
        let problem = RecordFile::open(&folder.path().join(path), None).unwrap_err().to_string();
        assert!(problem.contains(expected), "{problem}");
    }
}

/// The file is scanned in chunks of 1 MiB: a border may be at any byte of a record, a string or an escape.
#[test]
fn a_border_of_chunks_changes_no_record() {
    let folder = tempfile::tempdir().unwrap();
    let text = r#"a\\\"]},{[\\\\\" é 猫 \ud83d\ude00 \\"#;
    let record = format!(r#"{{"t": "{text}", "n": [1, {{"m": "{text}\\"}}]}}"#);
    let expected: Value = serde_json::from_str(&record).unwrap();
    let count = (1 << 20) / (record.len() + 1) + 40;
    for shift in 0..record.len() + 4 {
        let path = folder.path().join(if shift % 2 == 0 { "data.json" } else { "data.jsonl" });
        let (open, comma, close) = if shift % 2 == 0 { ("[", ", ", "]") } else { ("", "\n", "\n") };
        let list = vec![record.as_str(); count].join(comma);
        fs::write(&path, format!("{}{open}{list}{close}", " ".repeat(shift))).unwrap();
        let file = RecordFile::open(&path, None).unwrap();
        assert_eq!(file.len(), count, "shift {shift}");
        let border = (1 << 20) / (record.len() + comma.len());
        for index in [0, border - 1, border, border + 1, count - 1] {
            assert_eq!(file.value(index).unwrap(), expected, "shift {shift}, record {index}");
        }
    }
}

/// Writes a list that is larger than the sampled blocks of a file.
fn large_file(folder: &Path) -> PathBuf {
    let path = folder.join("large.json");
    let list: Vec<_> = (0..4000).map(|id| json!({"id": id, "text": "x".repeat(200)})).collect();
    fs::write(&path, Value::Array(list).to_string()).unwrap();
    path
}

fn index_files(cache: &Path) -> Vec<PathBuf> {
    fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// A structural fault that no identity shows proves that the second open does not scan the file.
#[test]
fn an_unchanged_file_is_not_scanned_again() {
    let folder = tempfile::tempdir().unwrap();
    let (path, cache) = (large_file(folder.path()), folder.path().join("a/b"));
    assert_eq!(RecordFile::open(&path, Some(&cache)).unwrap().len(), 4000);
    let changed = File::options().write(true).open(&path).unwrap();
    let time = changed.metadata().unwrap().modified().unwrap();
    let mut text = fs::read_to_string(&path).unwrap();
    // Blocks of the identity are at equal distances, this is between the second and the third.
    let at = text.len() / 15 + text.len() / 30;
    let at = at + text[at..].find("},{").unwrap() + 1;
    text.replace_range(at..=at, ";");
    fs::write(&path, &text).unwrap();
    changed.set_modified(time).unwrap();
    let file = RecordFile::open(&path, Some(&cache)).unwrap();
    assert_eq!((file.len(), file.value(3999).unwrap()["id"].clone()), (4000, json!(3999)));
    // Another time, size, content of a block, path or extension is another file.
    changed.set_modified(time + std::time::Duration::from_nanos(1000)).unwrap();
    let problem = RecordFile::open(&path, Some(&cache)).unwrap_err().to_string();
    assert!(problem.contains("there is no comma between record"), "{problem}");
    text.replace_range(at..=at, ",");
    text.replace_range(7..8, "9");
    fs::write(&path, &text).unwrap();
    changed.set_modified(time).unwrap();
    let file = RecordFile::open(&path, Some(&cache)).unwrap();
    assert_eq!(file.fingerprint(), blake3::hash(text.as_bytes()).to_hex().to_string());
    assert_eq!(index_files(&cache).len(), 1);
    let copy = folder.path().join("copy.json");
    fs::copy(&path, &copy).unwrap();
    assert_eq!(RecordFile::open(&copy, Some(&cache)).unwrap().fingerprint(), file.fingerprint());
    assert_eq!(index_files(&cache).len(), 2);
}

#[test]
fn a_damaged_saved_index_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let (path, cache) = (large_file(folder.path()), folder.path().join("cache"));
    let open = || RecordFile::open(&path, Some(&cache)).unwrap();
    let expected = records(&open());
    let saved = index_files(&cache).pop().unwrap();
    let whole = fs::read(&saved).unwrap();
    assert!(whole.len() < 4000 * 9, "{} bytes for 4000 records", whole.len());
    for at in [0, 20, 48, 50, 81, 88, 100, 1000, whole.len() - 1] {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x81;
        for content in [damaged, whole[..at].to_vec()] {
            fs::write(&saved, content).unwrap();
            assert_eq!(records(&open()), expected, "byte {at}");
            assert_eq!(fs::read(&saved).unwrap(), whole, "byte {at}");
        }
    }
    // A folder that cannot be written costs a scan only.
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    assert_eq!(RecordFile::open(&path, Some(&file)).unwrap().len(), 4000);
}

#[test]
fn many_openers_at_once_leave_one_index() {
    let folder = tempfile::tempdir().unwrap();
    let (path, cache) = (large_file(folder.path()), folder.path().join("cache"));
    thread::scope(|scope| {
        let openers: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| RecordFile::open(&path, Some(&cache)).unwrap().len()))
            .collect();
        assert!(openers.into_iter().all(|opener| opener.join().unwrap() == 4000));
    });
    let files = index_files(&cache);
    assert!(files.len() == 1 && files[0].extension().unwrap() == "index", "{files:?}");
}

#[test]
fn a_file_that_changes_under_a_run_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let path = large_file(folder.path());
    let file = RecordFile::open(&path, None).unwrap();
    for (content, reads) in [("[]".to_owned(), false), ("x".repeat(1 << 20), false)] {
        fs::write(&path, content).unwrap();
        let error = file.value(5).unwrap_err().to_string();
        assert!(error.contains("the file was changed after it was opened: start again"), "{error}");
        assert_eq!(file.each(|_, _| true).is_ok(), reads);
    }
    let file = RecordFile::open(&large_file(folder.path()), None).unwrap();
    assert!(
        file.value(4000)
            .unwrap_err()
            .to_string()
            .contains("there is no record 4000 in a file of 4000")
    );
}

/// A pipe can be read only once, so its content stays in memory and no index is saved.
#[test]
fn a_pipe_is_read_once() {
    let folder = tempfile::tempdir().unwrap();
    let (path, cache) = (folder.path().join("pipe"), folder.path().join("cache"));
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let writer = thread::spawn({
        let path = path.clone();
        move || fs::write(path, format!("[{{\"a\": \"{}\"}}, 2]", "x".repeat(3 << 20))).unwrap()
    });
    let file = RecordFile::open(&path, Some(&cache)).unwrap();
    writer.join().unwrap();
    assert_eq!(records(&file)[1], Ok(json!(2)));
    assert!(!cache.exists());
}

#[test]
fn a_pipe_without_a_writer_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let problem = RecordFile::open_within(Duration::from_millis(50), &path, None).unwrap_err();
    assert!(problem.to_string().contains("it is a pipe, to which no program wrote"), "{problem}");
}

#[test]
fn variables_name_the_cache() {
    type Case<'a> = (&'a [(&'a str, &'a str)], Option<&'a str>);
    let cases: &[Case<'_>] = &[
        (&[("HOME", "/h")], Some("/h/.cache/neva-run/records")),
        (&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")], Some("/x/neva-run/records")),
        (&[("HOME", "/h"), ("XDG_CACHE_HOME", "")], Some("/h/.cache/neva-run/records")),
        (&[("HOME", "/h"), ("XDG_CACHE_HOME", "x")], Some("/h/.cache/neva-run/records")),
        (&[], None),
    ];
    for (variables, expected) in cases {
        let lookup = |name: &str| variables.iter().find(|(own, _)| *own == name).map(|(_, value)| (*value).to_owned());
        assert_eq!(RecordFile::cache_folder(lookup), expected.map(PathBuf::from), "{variables:?}");
    }
}
