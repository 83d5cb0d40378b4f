//! Metadatasets: which samples an epoch has, and in what proportions; and the order, which any resume continues.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use neva_data::{BatchSampler, Dataset};
use neva_schemas::{EnergonMultiModalDataModule, OnError};
use proptest::prelude::{ProptestConfig, prop_assert_eq, proptest};
use serde_json::json;

use super::set::{
    Part, check, image_part, json_part, loader, number, open, options, pack, run_prepare, settings, split, stream, trained_text, vqa,
    vqa_loader, vqa_set, with_loader,
};

/// Three datasets of 10, 30 and 60 samples, in folders `a`, `b` and `c`.
fn sets(root: &Path) {
    vqa_set(&root.join("a"), &[0..4, 4..10]);
    vqa_set(&root.join("b"), &[100..130]);
    vqa_set(&root.join("c"), &[200..260]);
    // Their validation data are their first shards.
    for name in ["a", "b", "c"] {
        let path = root.join(name).join(".nv-meta/split.yaml");
        let text = fs::read_to_string(&path)
            .unwrap()
            .replace("\"val\": []", "\"val\": [shard_000.tar]");
        fs::write(path, text).unwrap();
    }
}

fn metadataset(root: &Path, splits: &str) -> EnergonMultiModalDataModule {
    let path = root.join("mix.yaml");
    fs::write(
        &path,
        format!("__module__: megatron.energon\n__class__: MetadatasetV2\nsplits:\n{splits}"),
    )
    .unwrap();
    settings(path)
}

/// Returns the number of samples of a, b and c in `positions` of the stream.
fn counts(data: &Arc<dyn Dataset>, positions: std::ops::Range<u64>) -> [usize; 3] {
    let mut counts = [0; 3];
    for number in stream(data, 7, positions) {
        counts[number / 100] += 1;
    }
    counts
}

#[test]
fn an_epoch_has_the_samples_that_a_metadataset_says() {
    let folder = tempfile::tempdir().unwrap();
    sets(folder.path());
    let cases: &[(&str, u64, [usize; 3])] = &[
        ("  train: {path: b}\n", 30, [0, 30, 0]),
        ("  train: {path: a, split_part: val}\n", 4, [4, 0, 0]),
        ("  train: {concat: [{path: a}, {path: b}]}\n", 40, [10, 30, 0]),
        ("  train: {blend: [{path: a, weight: 1}, {path: c, weight: 1}]}\n", 70, [35, 0, 35]),
        ("  train: {blend: [{path: a, weight: 3}, {path: b}]}\n", 40, [30, 10, 0]),
        (
            "  train: {blend_epochized: [{path: a, repetitions: 3}, {path: b}, {path: c, repetitions: 0.5}]}\n",
            90,
            [30, 30, 30],
        ),
        (
            "  train: {blend: [{path: a, subset: {range: [0%, 50%]}}, {path: b, subset: {range: [10, end]}}], subset: {range: [0%, 100%]}}\n",
            25,
            [12, 13, 0],
        ),
        ("  train: {path: c, subset: {range: [5, 15]}}\n", 10, [0, 0, 10]),
        ("  train: {path: inner.yaml}\n", 40, [20, 20, 0]),
        (
            "  train: {blend: [{path: inner.yaml, weight: 1}, {path: c, weight: 1}]}\n",
            100,
            [25, 25, 50],
        ),
        ("  train: {path: old.yaml}\n", 70, [35, 0, 35]),
    ];
    let inner =
        "__module__: megatron.energon\n__class__: MetadatasetV2\nsplits: {train: {blend: [{path: a}, {path: ./b, subflavors: {x: 1}}]}}\n";
    fs::write(folder.path().join("inner.yaml"), inner).unwrap();
    let old =
        "__module__: megatron.energon\n__class__: Metadataset\nsplits: {train: {datasets: [{weight: 5, path: a}, {weight: 5, path: c}]}}\n";
    fs::write(folder.path().join("old.yaml"), old).unwrap();
    for (text, epoch, expected) in cases {
        let data = metadataset(folder.path(), text);
        check(&data).unwrap();
        let train = open(&data).unwrap().train;
        for first in [0, *epoch] {
            let found = counts(&train, first..first + epoch);
            let close = found.iter().zip(expected).all(|(found, expected)| found.abs_diff(*expected) <= 1);
            assert!(
                close && found.iter().sum::<usize>() == *epoch as usize,
                "{text}: {found:?}, expected {expected:?}"
            );
        }
    }
}

#[test]
fn every_sample_of_a_blend_is_used_equally_often() {
    let folder = tempfile::tempdir().unwrap();
    sets(folder.path());
    let data = metadataset(folder.path(), "  train: {blend: [{path: a, weight: 1}, {path: b, weight: 3}]}\n");
    let train = open(&data).unwrap().train;
    let mut uses: BTreeMap<usize, usize> = BTreeMap::new();
    // Three epochs of 40: `a` is used 30 times, `b` 90 times.
    for number in stream(&train, 3, 0..120) {
        *uses.entry(number).or_default() += 1;
    }
    assert_eq!(uses.len(), 40);
    assert!(uses.values().all(|count| *count == 3), "{uses:?}");
}

#[test]
fn validation_reads_every_sample_once() {
    let folder = tempfile::tempdir().unwrap();
    sets(folder.path());
    let data = metadataset(
        folder.path(),
        "  train: {path: c}\n  val: {blend: [{path: a, weight: 9}, {path: b, weight: 1}]}\n",
    );
    let opened = open(&data).unwrap();
    let val = opened.val.unwrap();
    let numbers: Vec<usize> = (0..val.len()).map(|index| number(&*val, index)).collect();
    assert_eq!(numbers, (0..4).chain(100..130).collect::<Vec<_>>());
    assert!(open(&metadataset(folder.path(), "  train: {path: c}\n")).unwrap().val.is_none());
}

#[test]
fn joined_samples_have_the_parts_of_all_datasets() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let images: Vec<Part> = (0..5u8).map(|number| image_part(&format!("{number}.png"), number + 1)).collect();
    pack(&root.join("images/shard_0.tar"), &images);
    let texts: Vec<Part> = [4, 1, 3]
        .iter()
        .map(|number| json_part(&number.to_string(), &json!({"q": format!("Q{number}"), "a": format!("A{number}")})))
        .collect();
    pack(&root.join("texts/shard_0.tar"), &texts);
    run_prepare(
        &root.join("images"),
        &options(Some(loader("CaptioningSample", &[("image", "png"), ("caption", "txt")]))),
    )
    .unwrap();
    run_prepare(&root.join("texts"), &options(Some(loader("TextSample", &[("text", "json[q]")])))).unwrap();
    let own = || {
        loader(
            "VQASample",
            &[("image", "pixels.png"), ("context", "words.json[q]"), ("answers", "words.json[a]")],
        )
    };
    let join = |policy: &str| {
        metadataset(
            root,
            &format!("  train: {{join: {{words: {{path: texts}}, pixels: {{path: images, nonmatch: {policy}}}}}}}\n"),
        )
    };
    let opened = open(&with_loader("texts+images", own(), join("error"))).unwrap();
    let answers: Vec<String> = (0..3).map(|index| trained_text(&opened.train.get(index).unwrap())).collect();
    assert!(
        answers
            .iter()
            .zip(["A4", "A1", "A3"])
            .all(|(text, expected)| text.contains(expected)),
        "{answers:?}"
    );
    assert!((0..3).all(|index| opened.train.get(index).unwrap().images.len() == 1));

    let reversed = |policy: &str| {
        metadataset(
            root,
            &format!("  train: {{join: {{pixels: {{path: images}}, words: {{path: texts, nonmatch: {policy}}}}}}}\n"),
        )
    };
    let error = open(&with_loader("images+texts", own(), reversed("error")))
        .map(drop)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("join.words: has no sample 0") && error.contains("nonmatch: skip"),
        "{error}"
    );
    assert_eq!(open(&with_loader("images+texts", own(), reversed("skip"))).unwrap().train.len(), 3);
    let all = open(&with_loader("images+texts", own(), reversed("none"))).unwrap().train;
    assert_eq!(all.len(), 5);
    let error = all.get(0).unwrap_err().to_string();
    assert!(error.contains("sample 0, words.json: there is no part of this name"), "{error}");
    let error = open(&reversed("skip")).map(drop).unwrap_err().to_string();
    assert!(
        error.contains("sample_loaders: {images+texts: {") && error.contains("pixels.jpg"),
        "{error}"
    );
}

#[test]
fn lines_of_json_are_samples() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("texts.jsonl");
    fs::write(&path, "{\"t\": \"One.\"}\n{\"t\": \"Two.\"}\n{\"t\": \"Three.\"}").unwrap();
    let own = || loader("TextSample", &[("text", "json[t]")]);
    let opened = open(&with_loader("texts", own(), settings(&path))).unwrap();
    let texts: Vec<String> = (0..3).map(|index| trained_text(&opened.train.get(index).unwrap())).collect();
    assert_eq!(texts, ["One.", "Two.", "Three."]);
    assert_eq!(opened.train.name(1), "texts.jsonl: sample 1");
    let error = open(&settings(&path)).map(drop).unwrap_err().to_string();
    assert!(error.contains("sample_loaders: {texts: {sample_type: TextSample"), "{error}");
    for (content, expected) in [("", "has no line"), ("{\"t\": \"a\"}\n\n{\"t\": \"b\"}\n", "line 2: is empty")] {
        fs::write(&path, content).unwrap();
        let error = open(&with_loader("texts", own(), settings(&path)))
            .map(drop)
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{error}");
    }
    fs::write(&path, "{\"t\": \"a\"}\n{\n\n\n").unwrap();
    let opened = open(&with_loader("texts", own(), settings(&path))).unwrap();
    let error = opened.train.get(1).unwrap_err().to_string();
    assert!(error.contains("texts.jsonl: sample 1, json: is not JSON"), "{error}");
}

#[test]
fn datasets_of_one_name_have_mappings_by_their_paths() {
    let folder = tempfile::tempdir().unwrap();
    for (name, key) in [("a", "q"), ("b", "t")] {
        pack(
            &folder.path().join(name).join("train/shard_0.tar"),
            &[json_part("0", &json!({key: name}))],
        );
        run_prepare(
            &folder.path().join(name).join("train"),
            &options(Some(loader("TextSample", &[("text", "json[x]")]))),
        )
        .unwrap();
    }
    let mut data = metadataset(folder.path(), "  train: {concat: [{path: a/train}, {path: b/train}]}\n");
    data.sample_loaders = BTreeMap::from([
        ("train".to_owned(), loader("TextSample", &[("text", "json[q]")])),
        ("b/train".to_owned(), loader("TextSample", &[("text", "json[t]")])),
    ]);
    let train = open(&data).unwrap().train;
    assert_eq!([0, 1].map(|index| trained_text(&train.get(index).unwrap())), ["a", "b"]);
}

#[test]
fn invalid_metadatasets_are_named_with_their_field() {
    let folder = tempfile::tempdir().unwrap();
    sets(folder.path());
    let cases: &[(&str, &[&str])] = &[
        ("  train: {blend: []}\n", &["splits.train.blend"]),
        (
            "  train: {blend: [{path: a, weight: -1}]}\n",
            &["splits.train.blend[0].weight", "-1"],
        ),
        (
            "  train: {blend: [{path: a, weight: 0}]}\n",
            &["splits.train.blend", "no weight above 0"],
        ),
        (
            "  train: {blend: [{path: a, repetitions: 2}]}\n",
            &["blend[0].repetitions", "has no effect"],
        ),
        (
            "  train: {blend: [{path: nowhere}]}\n",
            &["blend[0].path", "there is no", "nowhere"],
        ),
        (
            "  train: {blend: [{path: 's3://bucket/set'}]}\n",
            &["blend[0].path", "is an address"],
        ),
        (
            "  train: {blend: [{path: a, wieght: 2}]}\n",
            &["blend[0].wieght", "is not known", "weight"],
        ),
        ("  train: {path: a, subset: {range: [0, 11]}}\n", &["subset.range", "10 samples"]),
        (
            "  train: {path: a, subset: {range: [50%, 10%]}}\n",
            &["train.subset.range", "ends before it starts"],
        ),
        (
            "  train: {path: a, subset: {range: [1, 10%]}}\n",
            &["train.subset.range", "must be two"],
        ),
        (
            "  train: {concat: [{path: a}], subset: {range: [0, 4]}}\n",
            &["train.subset", "use percentages"],
        ),
        (
            "  train: {path: a, shuffle_over_epochs_multiplier: -1}\n",
            &["shuffle_over_epochs_multiplier", "remove it"],
        ),
        ("  train: {path: a, aux: {x: b}}\n", &["train.aux", "cookers"]),
        ("  train: {path: a, split_part: other}\n", &["no samples in the split `train`"]),
        ("  train: {join: {a: {path: a}}}\n", &["train.join", "at least two"]),
        (
            "  train: {join: {a: {path: a}, b: {path: b, nonmatch: never}}}\n",
            &["join.b.nonmatch", "never"],
        ),
        ("  train: {path: mix.yaml}\n", &["mix.yaml", "does it name itself"]),
        ("  val: {path: a}\n", &["no samples in the split `train`"]),
    ];
    for (text, expected) in cases {
        let error = open(&metadataset(folder.path(), text)).map(drop).unwrap_err().to_string();
        for part in *expected {
            assert!(error.contains(part), "{text}: {part}\nis not in\n{error}");
        }
    }
}

#[test]
fn broken_samples_are_skipped_by_the_policy() {
    let folder = tempfile::tempdir().unwrap();
    let mut parts: Vec<Part> = (0..6).flat_map(vqa).collect();
    parts[4].1.truncate(20);
    pack(&folder.path().join("shard_0.tar"), &parts);
    run_prepare(folder.path(), &options(Some(vqa_loader()))).unwrap();
    let mut data = settings(folder.path());
    assert!(open(&data).unwrap().train.get(2).is_err());
    data.on_error = OnError::Skip;
    let train = open(&data).unwrap().train;
    assert_eq!(
        (train.len(), train.get(2).unwrap().name),
        (6, "shard_0.tar: sample 0003".to_owned())
    );
    assert_eq!(train.get_without_pixels(2).unwrap().name, "shard_0.tar: sample 0003");
    data.max_skipped = Some(0);
    assert!(open(&data).unwrap().train.get(2).is_err());
    // A broken archive is not a broken sample.
    let shard = folder.path().join("shard_0.tar");
    let mut bytes = fs::read(&shard).unwrap();
    bytes[..512].fill(7);
    fs::write(&shard, bytes).unwrap();
    data.max_skipped = None;
    assert!(open(&data).unwrap().train.get(0).is_err());
}

#[test]
fn a_split_can_be_read_on_its_own() {
    let folder = tempfile::tempdir().unwrap();
    sets(folder.path());
    let val = split(&settings(folder.path().join("a")), "val");
    assert_eq!(val.len(), 4);
    assert_eq!(val.energon_sample(3).unwrap().raw.key(), "0003");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever the numbers of ranks before and after a stop, no sample of the epoch is lost or seen twice.
    #[test]
    fn a_resume_with_other_ranks_continues_the_epoch(
        stop in 0u64..12, micro in 1u64..3, ranks_before in 1u64..4, ranks_after in 1u64..4, seed in 0u64..1000
    ) {
        let folder = tempfile::tempdir().unwrap();
        vqa_set(folder.path(), &[0..20, 20..48]);
        let train = open(&settings(folder.path())).unwrap().train;
        let order = train.order(seed, true);
        let global = 12;
        let read = |ranks: u64, from: u64, samples: u64| {
            let micro = if global % (micro * ranks) == 0 { micro } else { 1 };
            let mut numbers = Vec::new();
            for rank in 0..ranks {
                let sampler = BatchSampler {
                    global_batch_size: global,
                    micro_batch_size: micro,
                    data_parallel_size: ranks,
                    data_parallel_rank: rank,
                };
                let microbatches = samples / (micro * ranks);
                for n in 0..microbatches {
                    numbers.extend(sampler.microbatch(&*order, from, n).into_iter().map(|index| number(&*train, index as usize)));
                }
            }
            numbers
        };
        // Four global batches are one epoch.
        let stop = stop % 4 * global;
        let mut numbers = read(ranks_before, 0, stop);
        numbers.extend(read(ranks_after, stop, 48 - stop));
        numbers.sort_unstable();
        prop_assert_eq!(numbers, (0..48).collect::<Vec<_>>());
    }
}
