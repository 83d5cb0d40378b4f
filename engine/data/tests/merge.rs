//! The token merge: an example, edge cases, and random batches against a literal transcription of NeMo's code.

#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use neva_data::{
    Batch, DataError, Dataset, IGNORE_INDEX, IMAGE_TOKEN_INDEX, MergeOptions, MergedBatch, MockConfig, MockDataset, Pixels, Sample,
    Sequence, merge,
};
use proptest::prelude::*;

const P: i64 = IMAGE_TOKEN_INDEX;
const X: i64 = IGNORE_INDEX;

fn options(image_seq_len: usize, max_length: usize) -> MergeOptions {
    MergeOptions {
        image_seq_len,
        max_length,
        row_multiple: 1,
        fixed_length: false,
        packed: false,
    }
}

fn sequence<'a>(ids: &'a [i64], labels: &'a [i64]) -> Sequence<'a> {
    Sequence {
        name: "a",
        ids,
        labels,
        num_images: ids.iter().filter(|&&id| id == P).count(),
    }
}

#[test]
fn one_image_of_576_positions() {
    let batch = merge(&[sequence(&[0, 1, P, 2, 3], &[1, P, 2, 3, 4])], &options(576, 4096)).unwrap();
    assert_eq!((batch.b, batch.s, batch.seq_lens()[0], batch.num_labels[0]), (1, 580, 580, 3));
    assert_eq!(batch.input_ids, [vec![0, 1], vec![P; 576], vec![2, 3]].concat());
    assert_eq!(batch.labels, [vec![1], vec![X; 577], vec![3, 4]].concat());
    assert_eq!(batch.image_positions(), (2..578).collect::<Vec<i64>>());
    assert_eq!(batch.feature_rows(576), None);
}

/// Merges two samples with images of 3 positions and compares input ids, labels and image spans (image, row, start, len).
#[track_caller]
fn check(options: MergeOptions, ids: &[&[i64]], labels: &[&[i64]], images: &[(usize, usize, usize, usize)]) -> MergedBatch {
    let first = sequence(&[5, P, 6, P, 7], &[X, X, P, 7, 8]);
    let second = sequence(&[P, 9], &[9, 2]);
    let batch = merge(&[first, second], &options).unwrap();
    assert_eq!(batch.input_ids, ids.concat());
    assert_eq!(batch.labels, labels.concat());
    let spans: Vec<_> = batch
        .images
        .iter()
        .map(|span| (span.image, span.row, span.start, span.len))
        .collect();
    assert_eq!(spans, images);
    assert_eq!(batch.num_images, 3);
    batch
}

#[test]
fn rows_are_padded_and_truncated_at_the_right() {
    let (all, none) = ([(0, 0, 1, 3), (1, 0, 5, 3), (2, 1, 0, 3)], X);
    let batch = check(
        options(3, 100),
        &[&[5, P, P, P, 6, P, P, P, 7], &[P, P, P, 9, 0, 0, 0, 0, 0]],
        &[&[X, X, X, X, X, X, X, X, 8], &[X, X, X, 2, X, X, X, X, X]],
        &all,
    );
    assert_eq!(batch.seq_lens(), [9, 4]);
    assert_eq!(batch.num_labels, [1, 1]);

    check(
        MergeOptions {
            row_multiple: 4,
            ..options(3, 100)
        },
        &[&[5, P, P, P, 6, P, P, P, 7, 0, 0, 0], &[P, P, P, 9, 0, 0, 0, 0, 0, 0, 0, 0]],
        &[&[X, X, X, X, X, X, X, X, 8, X, X, X], &[X, X, X, 2, X, X, X, X, X, X, X, X]],
        &all,
    );
    check(
        MergeOptions {
            fixed_length: true,
            ..options(3, 10)
        },
        &[&[5, P, P, P, 6, P, P, P, 7, 0], &[P, P, P, 9, 0, 0, 0, 0, 0, 0]],
        &[&[X, X, X, X, X, X, X, X, 8, X], &[X, X, X, 2, X, X, X, X, X, X]],
        &all,
    );
    // The second image is truncated to one position ..
    let batch = check(
        options(3, 6),
        &[&[5, P, P, P, 6, P], &[P, P, P, 9, 0, 0]],
        &[&[none; 6], &[X, X, X, 2, X, X]],
        &[(0, 0, 1, 3), (1, 0, 5, 1), (2, 1, 0, 3)],
    );
    assert_eq!(batch.num_labels, [0, 1]);
    assert_eq!(batch.image_positions(), [1, 2, 3, 5, 6, 7, 8]);
    assert_eq!(batch.feature_rows(3), Some(vec![0, 1, 2, 3, 6, 7, 8]));
    // .. or removed.
    let batch = check(
        options(3, 5),
        &[&[5, P, P, P, 6], &[P, P, P, 9, 0]],
        &[&[none; 5], &[X, X, X, 2, X]],
        &[(0, 0, 1, 3), (2, 1, 0, 3)],
    );
    assert_eq!(batch.feature_rows(3), None);
}

#[test]
fn packed_samples_share_rows() {
    let samples = [
        sequence(&[5, P, 6, P, 7], &[X, X, P, 7, 8]),
        sequence(&[1, 2, 3], &[2, 3, 4]),
        sequence(&[P, 9], &[9, 2]),
        sequence(&[P, P, P, P, 4], &[X, X, X, X, 5]),
    ];
    let packed = |max_length| MergeOptions {
        packed: true,
        ..options(3, max_length)
    };
    // Samples of 9, 3, 4 and 13 positions; the last one is truncated to 12.
    let batch = merge(&samples, &packed(12)).unwrap();
    assert_eq!((batch.b, batch.s), (3, 12));
    let ids = [
        [5, P, P, P, 6, P, P, P, 7, 1, 2, 3],
        [P, P, P, 9, 0, 0, 0, 0, 0, 0, 0, 0],
        [P, P, P, P, P, P, P, P, P, P, P, P],
    ];
    assert_eq!(batch.input_ids, ids.concat());
    let labels = [[X, X, X, X, X, X, X, X, 8, 2, 3, 4], [X, X, X, 2, X, X, X, X, X, X, X, X], [X; 12]];
    assert_eq!(batch.labels, labels.concat());
    assert_eq!(batch.segments, [vec![9, 12], vec![4], vec![12]]);
    assert_eq!((batch.seq_lens(), &batch.num_labels), (vec![12, 4, 12], &vec![1, 3, 1, 0]));
    // The row is only as long as its samples.
    let batch = merge(&samples[1..3], &packed(12)).unwrap();
    assert_eq!((batch.b, batch.s, batch.segments), (1, 7, vec![vec![3, 7]]));
}

#[test]
fn invalid_input_is_reported() {
    let texts = [
        merge(&[], &options(3, 8)),
        merge(
            &[Sequence {
                num_images: 2,
                ..sequence(&[1, P, 2], &[X, 2, 3])
            }],
            &options(3, 8),
        ),
        merge(&[sequence(&[1, 2], &[2])], &options(3, 8)),
        merge(
            &[sequence(&[1], &[2])],
            &MergeOptions {
                row_multiple: 4,
                ..options(3, 10)
            },
        ),
        merge(&[sequence(&[1], &[2])], &options(3, 0)),
    ]
    .map(|outcome| outcome.unwrap_err().to_string());
    let expected = [
        "at least one sample",
        "a: 1 image placeholder(s) but 2 image(s)",
        "a: 2 token ids but 1 labels",
        "choose 12",
        "max_length 0",
    ];
    for (text, expected) in texts.iter().zip(expected) {
        assert!(text.contains(expected), "{text}");
    }
}

/// NeMo's `_preprocess_data` (2.4.0), one index at a time. Returns the row length, the ids, and the labels where the loss
/// mask is set.
fn nemo(rows: &[(Vec<i64>, Vec<i64>)], options: &MergeOptions) -> (usize, Vec<i64>, Vec<i64>) {
    let t = rows.iter().map(|(ids, _)| ids.len()).max().unwrap();
    let padded: Vec<(Vec<i64>, Vec<i64>)> = rows
        .iter()
        .map(|(ids, labels)| {
            let pad = |values: &[i64], with| [values, &vec![with; t - values.len()]].concat();
            (pad(ids, 0), pad(labels, X))
        })
        .collect();
    let lengths = |ids: &[i64]| -> Vec<usize> { ids.iter().map(|&id| if id == P { options.image_seq_len } else { 1 }).collect() };
    let longest = padded.iter().map(|(ids, _)| lengths(ids).iter().sum::<usize>()).max().unwrap();
    let mut s = longest.next_multiple_of(options.row_multiple);
    if options.fixed_length && s < options.max_length {
        s = options.max_length;
    }
    let (mut all_ids, mut all_labels) = (Vec::new(), Vec::new());
    let cut = s.min(options.max_length);
    for (ids, labels) in padded {
        let mut end = 0;
        let position: Vec<usize> = lengths(&ids)
            .iter()
            .map(|len| {
                end += len;
                end - 1
            })
            .collect();
        let sequence = end;
        let mut out_ids: Vec<i64> = (0..s).map(|p| if p < sequence { P } else { 0 }).collect();
        let mut out_labels = vec![X; s];
        let mut mask = vec![0; s];
        for i in 0..t {
            if ids[i] == P {
                continue;
            }
            out_ids[position[i]] = ids[i];
            mask[position[i]] = i64::from(labels[i] >= 0);
            if i >= 1 && position[i] >= 1 {
                out_labels[position[i] - 1] = labels[i - 1];
            }
        }
        out_labels[sequence - 1] = labels[t - 1];
        for i in 0..t {
            if ids[i] == P {
                mask[position[i] + 1 - options.image_seq_len..=position[i]].fill(0);
                if i >= 1 {
                    mask[position[i - 1]] = 0;
                }
            }
        }
        let trained = out_labels
            .iter()
            .zip(&mask)
            .map(|(&label, &mask)| if mask == 1 { label } else { X });
        all_labels.extend(trained.take(cut));
        all_ids.extend(out_ids.into_iter().take(cut));
    }
    (cut, all_ids, all_labels)
}

fn tokens() -> impl Strategy<Value = (Vec<i64>, Vec<i64>)> {
    let id = prop_oneof![4 => 0..50i64, 1 => Just(P)];
    let label = prop_oneof![3 => 0..50i64, 1 => Just(X), 1 => Just(P)];
    prop::collection::vec((id, label), 1..12).prop_map(|pairs| pairs.into_iter().unzip())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_batches_merge_as_in_nemo(
        rows in prop::collection::vec(tokens(), 1..4),
        image_seq_len in 1..6usize,
        parts in 1..10usize,
        row_multiple in 1..5usize,
        fixed_length: bool,
    ) {
        let options = MergeOptions { image_seq_len, max_length: parts * row_multiple, row_multiple, fixed_length, packed: false };
        let borrowed: Vec<Sequence<'_>> = rows.iter().map(|(ids, labels)| sequence(ids, labels)).collect();
        let batch = merge(&borrowed, &options).unwrap();
        let (s, ids, labels) = nemo(&rows, &options);
        // NeMo pads the text first, so its batch may be longer; the additional positions are padding.
        prop_assert!(batch.s <= s && batch.s.is_multiple_of(row_multiple));
        for r in 0..batch.b {
            let expected = |values: &[i64]| values[r * s..(r + 1) * s].to_vec();
            let found = |values: &[i64], with| [&values[r * batch.s..(r + 1) * batch.s], &vec![with; s - batch.s]].concat();
            prop_assert_eq!(found(&batch.input_ids, 0), expected(&ids));
            prop_assert_eq!(found(&batch.labels, X), expected(&labels));
        }
        let trained = batch.labels.iter().filter(|&&label| label != X).count();
        prop_assert_eq!(batch.total_labels(), trained);
        let positions: Vec<i64> = (0..).zip(&batch.input_ids).filter(|&(_, &id)| id == P).map(|(i, _)| i).collect();
        prop_assert_eq!(batch.image_positions(), positions.clone());
        if let Some(rows) = batch.feature_rows(image_seq_len) {
            prop_assert_eq!(rows.len(), positions.len());
            prop_assert!(rows.is_sorted_by(|a, b| a < b));
        }
    }
}

/// A sample of a batch: its inputs, its targets, and the index and remaining length of each image.
type Unpacked = (Vec<i64>, Vec<i64>, Vec<(usize, usize)>);

/// Returns the samples of a batch.
fn unpack(batch: &MergedBatch) -> Vec<Unpacked> {
    let mut samples = Vec::new();
    for (row, ends) in batch.segments.iter().enumerate() {
        let mut start = 0;
        for &end in ends {
            let slice = |values: &[i64]| values[row * batch.s..][start..end].to_vec();
            let within = batch
                .images
                .iter()
                .filter(|span| span.row == row && (start..end).contains(&span.start));
            let images = within.map(|span| (span.image, span.len)).collect();
            samples.push((slice(&batch.input_ids), slice(&batch.labels), images));
            start = end;
        }
        assert!(batch.labels[row * batch.s..][start..batch.s].iter().all(|label| *label == X));
    }
    samples.sort();
    samples
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn packed_samples_equal_unpacked_ones(
        rows in prop::collection::vec(tokens(), 1..7),
        image_seq_len in 1..6usize,
        parts in 1..15usize,
        row_multiple in 1..5usize,
    ) {
        let alone = MergeOptions { row_multiple, ..options(image_seq_len, parts * row_multiple) };
        let borrowed: Vec<Sequence<'_>> = rows.iter().map(|(ids, labels)| sequence(ids, labels)).collect();
        let expected = merge(&borrowed, &alone).unwrap();
        let batch = merge(&borrowed, &MergeOptions { packed: true, ..alone }).unwrap();
        prop_assert_eq!(unpack(&batch), unpack(&expected));
        prop_assert_eq!(&batch.num_labels, &expected.num_labels);
        prop_assert!(batch.s <= alone.max_length && batch.s.is_multiple_of(row_multiple));
        let positions: Vec<i64> = (0..).zip(&batch.input_ids).filter(|&(_, &id)| id == P).map(|(i, _)| i).collect();
        prop_assert_eq!(batch.image_positions(), positions);
        // No two rows fit into one.
        let mut lens = batch.seq_lens();
        lens.sort_unstable();
        prop_assert!(lens.len() < 2 || lens[0] + lens[1] > alone.max_length);
    }
}

fn sample(name: &str, ids: &[i64], colours: &[f32]) -> Sample {
    let image = |&colour: &f32| Pixels {
        height: 2,
        width: 1,
        chw: vec![colour; 6],
    };
    let labels = ids.iter().map(|&id| if id == P { X } else { id }).collect();
    Sample {
        name: name.to_owned(),
        ids: ids.to_vec(),
        labels,
        images: colours.iter().map(image).collect(),
    }
}

#[test]
fn a_batch_holds_the_images_that_remain() {
    let samples = [
        sample("a", &[1, 2, P, P, 3], &[0.1, 0.2]),
        sample("b", &[1, 2], &[]),
        sample("c", &[P, 4, 5], &[0.3]),
    ];
    let batch = Batch::collate(&samples, &options(2, 4)).unwrap();
    assert_eq!(batch.pixel_shape, [2, 3, 2, 1]);
    assert_eq!(batch.pixels, [[0.1; 6], [0.3; 6]].concat());
    assert_eq!(batch.tokens.num_labels, [1, 1, 1]);
    assert_eq!(batch.tokens.num_images, 3);

    let text = Batch::collate(&samples[1..2], &options(2, 4)).unwrap();
    assert_eq!((text.pixels.len(), text.pixel_shape), (0, [0; 4]));

    let mut odd = sample("odd", &[P, 4, 5], &[0.3]);
    odd.images[0] = Pixels {
        height: 1,
        width: 2,
        chw: vec![0.0; 6],
    };
    let error = Batch::collate(&[samples[2].clone(), odd], &options(2, 4)).unwrap_err();
    assert!(matches!(&error, DataError::ImageSize { sample, .. } if sample == "odd"), "{error}");
}

#[test]
fn mock_samples_have_exactly_the_requested_length() {
    for (seq_length, image_seq_len, images_per_sample) in [(64, 16, 1), (64, 16, 3), (20, 9, 0), (2048, 576, 1), (8, 4, 1)] {
        let config = MockConfig {
            seq_length,
            image_seq_len,
            images_per_sample,
            vocab_size: 100,
            image_height: 8,
            image_width: 6,
            num_samples: 50,
            seed: 7,
        };
        let mock = MockDataset::new(config.clone()).unwrap();
        let samples: Vec<Sample> = (0..3).map(|i| mock.get(i).unwrap()).collect();
        let batch = Batch::collate(&samples, &options(image_seq_len, 100_000)).unwrap();
        assert_eq!((batch.tokens.s, batch.tokens.seq_lens()), (seq_length, vec![seq_length; 3]));
        assert!(samples.iter().flat_map(|s| &s.ids).all(|&id| id == P || (0..100).contains(&id)));
        assert!(batch.pixels.iter().all(|pixel| (0.0..1.0).contains(pixel)));
        assert_eq!(batch.pixels.len(), 3 * images_per_sample * 3 * 8 * 6);
        assert!(batch.tokens.images.iter().all(|span| span.start >= 2));

        assert_eq!(MockDataset::new(config.clone()).unwrap().get(1).unwrap(), samples[1]);
        assert_ne!(samples[0].ids, samples[1].ids);
        assert_ne!(
            MockDataset::new(MockConfig { seed: 8, ..config }).unwrap().get(1).unwrap().ids,
            samples[1].ids
        );
        assert!(mock.get(50).unwrap_err().to_string().contains("no sample 50 in a dataset of 50"));
    }
    let cramped = MockConfig {
        seq_length: 576,
        ..MockConfig::default()
    };
    assert!(MockDataset::new(cramped).unwrap_err().to_string().contains("set it to 579 or more"));
    let wordless = MockConfig {
        vocab_size: 0,
        ..MockConfig::default()
    };
    assert!(MockDataset::new(wordless).unwrap_err().to_string().contains("vocab_size is 0"));
}
