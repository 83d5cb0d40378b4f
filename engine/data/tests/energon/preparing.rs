//! Preparation: what it writes, what it refuses, and how it resumes.

use std::{
    fs,
    sync::atomic::{AtomicUsize, Ordering},
};

use neva_data::{PrepareError, PrepareOptions, Prepared, SplitRule, prepare};

use super::set::{Part, open, options, pack, run_prepare, settings, vqa, vqa_loader};

fn shards(root: &std::path::Path, ranges: &[std::ops::Range<usize>]) {
    for (index, range) in ranges.iter().enumerate() {
        let parts: Vec<Part> = range.clone().flat_map(vqa).collect();
        pack(&root.join(format!("sub/shard_{index:03}.tar")), &parts);
    }
}

fn splits(prepared: &Prepared) -> Vec<(&str, usize, u64)> {
    let splits = prepared.splits.iter();
    splits.map(|split| (split.name.as_str(), split.shards, split.samples)).collect()
}

#[test]
fn all_metadata_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    shards(root, &(0..10).map(|index| index * 2..index * 2 + 2).collect::<Vec<_>>());
    let own = PrepareOptions {
        split: SplitRule::Ratio([8.0, 1.0, 1.0]),
        exclude: vec!["sub/shard_000.tar/0001".to_owned()],
        ..options(Some(vqa_loader()))
    };
    let prepared = run_prepare(root, &own).unwrap();
    assert_eq!((prepared.shards, prepared.samples, prepared.resumed), (10, 20, 0));
    assert_eq!(splits(&prepared), [("train", 8, 16), ("val", 1, 2), ("test", 1, 2)]);
    assert_eq!(prepared.parts.iter().map(String::as_str).collect::<Vec<_>>(), ["json", "png"]);
    let read = |name: &str| fs::read_to_string(root.join(".nv-meta").join(name)).unwrap();
    assert_eq!(
        read("split.yaml"),
        "split_parts:\n  \"train\":\n  - \"sub/shard_{000..007}.tar\"\n  \"val\":\n  - \"sub/shard_008.tar\"\n  \"test\":\n  - \"sub/shard_009.tar\"\nexclude:\n\
         - \"sub/shard_000.tar/0001\"\n"
    );
    assert_eq!(
        read("dataset.yaml"),
        "sample_type:\n  __module__: megatron.energon\n  __class__: VQASample\nfield_map:\n  answers: \"json[answers]\"\n  context: \"json[question]\"\n  \
         image: \"png,jpg\"\n"
    );
    let info: serde_json::Value = serde_json::from_str(&read(".info.json")).unwrap();
    assert_eq!(
        (&info["energon_version"], &info["shard_counts"]["sub/shard_004.tar"]),
        (&"7.4.1".into(), &2.into())
    );
    assert_eq!(read("index.uuid").len(), 36);
    // The table of samples has the places that the index and the archive have.
    let table = rusqlite::Connection::open(root.join(".nv-meta/index.sqlite")).unwrap();
    let row = table.query_row(
        "SELECT tar_file_id, sample_index, byte_offset, byte_size FROM samples WHERE sample_key = '0005'",
        [],
        |row| {
            Ok((
                row.get::<_, i64>(0)?,
                row.get::<_, i64>(1)?,
                row.get::<_, i64>(2)?,
                row.get::<_, i64>(3)?,
            ))
        },
    );
    let (file, index, start, size) = row.unwrap();
    assert_eq!((file, index), (2, 1));
    let words = fs::read(root.join("sub/shard_002.tar.idx")).unwrap();
    let words: Vec<i64> = words.as_chunks().0.iter().map(|word| i64::from_le_bytes(*word)).collect();
    assert_eq!((words[1], words[2] - words[1], words.len()), (start, size, 3));
    let part = table.query_row(
        "SELECT content_byte_offset, content_byte_size FROM sample_parts WHERE tar_file_id = 2 AND sample_index = 1 AND part_name = 'json'",
        [],
        |row| Ok((row.get::<_, u32>(0)? as usize, row.get::<_, u32>(1)? as usize)),
    );
    let (at, size) = part.unwrap();
    let bytes = fs::read(root.join("sub/shard_002.tar")).unwrap();
    assert_eq!(bytes[at..at + size], vqa(5)[1].1);
    assert!(!root.join(".nv-meta/.prepare").exists());
    let opened = open(&settings(root)).unwrap();
    assert_eq!((opened.train.len(), opened.val.unwrap().len()), (15, 2));
}

#[test]
fn an_interrupted_preparation_is_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    shards(root, &[0..2, 2..4, 4..6, 6..8]);
    let calls = AtomicUsize::new(0);
    let stop = || calls.fetch_add(1, Ordering::Relaxed) >= 2;
    let own = PrepareOptions {
        workers: 1,
        ..options(Some(vqa_loader()))
    };
    let error = prepare(root, &own, &mut |_| {}, &stop).unwrap_err();
    assert!(matches!(error, PrepareError::Stopped { done: 2, total: 4 }), "{error}");
    assert!(!root.join(".nv-meta/.info.json").exists());
    // A shard that has changed is read again.
    pack(&root.join("sub/shard_001.tar"), &(20..23).flat_map(vqa).collect::<Vec<_>>());
    let prepared = run_prepare(root, &own).unwrap();
    assert_eq!((prepared.resumed, prepared.samples), (1, 9));
    let error = run_prepare(root, &own).unwrap_err();
    assert!(matches!(error, PrepareError::Exists(_)), "{error}");
    fs::remove_file(root.join("sub/shard_002.tar.idx")).unwrap();
    let indices = PrepareOptions {
        index_only: true,
        ..options(None)
    };
    run_prepare(root, &indices).unwrap();
    assert_eq!(open(&settings(root)).unwrap().train.len(), 9);
    let again = PrepareOptions {
        force: true,
        ..options(None)
    };
    assert_eq!(run_prepare(root, &again).unwrap().samples, 9);
}

#[test]
fn what_cannot_be_prepared_is_refused() {
    let duplicates = |root: &std::path::Path| shards(root, &[0..3, 2..5]);
    let fine = |root: &std::path::Path| shards(root, &[0..2]);
    let own = || options(Some(vqa_loader()));
    let loader = |sample_type: &str, fields: &[(&str, &str)]| options(Some(super::set::loader(sample_type, fields)));
    type Case<'a> = (&'a dyn Fn(&std::path::Path), PrepareOptions, &'a [&'a str]);
    let cases: &[Case<'_>] = &[
        (
            &duplicates,
            own(),
            &["1 key(s) occur more than once", "0002 in sub/shard_000.tar, sub/shard_001.tar"],
        ),
        (&|_| {}, own(), &["there is no .tar file in"]),
        (
            &|root| fs::write(root.join("a.tar.gz"), "").unwrap(),
            own(),
            &["a.tar.gz: is compressed"],
        ),
        (&|root| fs::write(root.join("a.tar"), "").unwrap(), own(), &["a.tar: has no sample"]),
        (
            &|root| fs::write(root.join("a.tar"), [&[0x1f, 0x8b][..], &[8; 1022]].concat()).unwrap(),
            own(),
            &["a.tar, byte 0: the archive is compressed", "unpack it with `gunzip`"],
        ),
        (
            &fine,
            options(None),
            &["the type of the samples is not known; the first sample has the parts png, json"],
        ),
        (
            &fine,
            loader("OwnSample", &[]),
            &["--sample-type", "OwnSample cannot be trained on"],
        ),
        (
            &fine,
            loader("VQASample", &[("image", "png")]),
            &["--field-map, context: is missing"],
        ),
        (
            &fine,
            loader("VQASample", &[("picture", "png")]),
            &["--field-map, picture: VQASample has no such field"],
        ),
        (
            &fine,
            PrepareOptions {
                split: SplitRule::Ratio([8.0, 1.0, 1.0]),
                ..own()
            },
            &["the split `train` would have none of the 1 shard(s)", "--split-ratio 1,0,0"],
        ),
        (
            &fine,
            PrepareOptions {
                split: SplitRule::Ratio([0.0; 3]),
                ..own()
            },
            &["one above 0"],
        ),
        (
            &fine,
            PrepareOptions {
                split: SplitRule::Patterns(vec![("train".to_owned(), "(".to_owned())]),
                ..own()
            },
            &["the pattern `(` of train is no regular expression"],
        ),
        (
            &fine,
            PrepareOptions {
                index_only: true,
                ..options(None)
            },
            &["is not prepared"],
        ),
    ];
    for (make, options, expected) in cases {
        let folder = tempfile::tempdir().unwrap();
        make(folder.path());
        let error = run_prepare(folder.path(), options).unwrap_err().to_string();
        for text in *expected {
            assert!(error.contains(text), "{text}\nis not in\n{error}");
        }
        assert!(!folder.path().join(".nv-meta/.info.json").exists());
    }
}

#[test]
fn patterns_assign_shards() {
    let folder = tempfile::tempdir().unwrap();
    shards(folder.path(), &[0..2, 2..4, 4..7]);
    let own = PrepareOptions {
        split: SplitRule::Patterns(vec![
            ("train".to_owned(), "sub/shard_00{0,2}".to_owned()),
            ("val".to_owned(), ".*1".to_owned()),
        ]),
        ..options(Some(vqa_loader()))
    };
    let prepared = run_prepare(folder.path(), &own).unwrap();
    assert_eq!(splits(&prepared), [("train", 2, 5), ("val", 1, 2)]);
    assert_eq!(open(&settings(folder.path())).unwrap().val.unwrap().len(), 2);
}

#[test]
fn more_shards_are_read_than_files_stay_open() {
    let folder = tempfile::tempdir().unwrap();
    shards(folder.path(), &(0..300).map(|index| index..index + 1).collect::<Vec<_>>());
    assert_eq!(run_prepare(folder.path(), &options(Some(vqa_loader()))).unwrap().samples, 300);
    let train = open(&settings(folder.path())).unwrap().train;
    for index in 0..300 {
        assert_eq!(
            train.get_without_pixels(index).unwrap().name,
            format!("sub/shard_{index:03}.tar: sample {index:04}")
        );
    }
    let files = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    assert!(files < 400, "{files} files are open");
}
