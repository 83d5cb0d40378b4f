//! The blended order: values of an independent script, proportions, and refusals.

use std::{ops::Range, sync::Arc};

use neva_data::{BatchSampler, Blended, BlendedOrder, Dataset, MockConfig, MockDataset, SampleOrder};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    lengths: Vec<u64>,
    weights: Vec<f64>,
    seed: u64,
    shuffle: bool,
    from: u64,
    quotas: Vec<u64>,
    indices: Vec<u64>,
}

fn ranges(lengths: &[u64]) -> Vec<Range<u64>> {
    let ends = lengths.iter().scan(0, |end, length| {
        *end += length;
        Some(*end - length..*end)
    });
    ends.collect()
}

/// A checkpoint stores `consumed_samples` only, so the order must never change. `order.py` computed the values.
#[test]
fn the_blended_order_is_pinned() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("blend/order.json")).unwrap();
    assert_eq!(cases.len(), 7);
    for case in cases {
        let order = BlendedOrder::new(&ranges(&case.lengths), &case.weights, case.seed, case.shuffle).unwrap();
        assert_eq!(order.quotas(), case.quotas, "{:?}", case.weights);
        let indices: Vec<_> = (case.from..)
            .take(case.indices.len())
            .map(|position| order.index(position))
            .collect();
        assert_eq!(indices, case.indices, "{:?} {:?}", case.lengths, case.weights);
    }
}

/// Every epoch has the proportions of the weights, and the samples of a file are used equally often.
#[test]
fn proportions_hold_in_every_epoch_and_samples_are_used_evenly() {
    for (lengths, weights) in [
        (vec![30, 70], vec![0.5, 0.5]),
        (vec![30, 70, 20], vec![1.0, 0.0, 3.0]),
        (vec![7, 1, 90], vec![1e-9, 1e300, 1e300]),
        (vec![1, 1], vec![1.0, 1e-300]),
    ] {
        let total: u64 = lengths.iter().sum();
        let parts = ranges(&lengths);
        let order = BlendedOrder::new(&parts, &weights, 9, true).unwrap();
        let quotas = order.quotas();
        assert_eq!(quotas.iter().sum::<u64>(), total);
        assert!(
            quotas.iter().zip(&weights).all(|(quota, weight)| (*quota > 0) == (*weight > 0.0)),
            "{quotas:?}"
        );
        let mut used = vec![0u64; total as usize];
        for epoch in 0..20 {
            let mut seen = vec![0; lengths.len()];
            for position in epoch * total..(epoch + 1) * total {
                let index = order.index(position);
                used[index as usize] += 1;
                seen[parts.iter().position(|part| part.contains(&index)).unwrap()] += 1;
            }
            assert_eq!(seen, quotas, "epoch {epoch}");
        }
        for part in parts {
            let used = &used[part.start as usize..part.end as usize];
            assert!(used.iter().max().unwrap() - used.iter().min().unwrap() <= 1, "{used:?}");
        }
    }
}

/// Ranks partition the stream of a blended dataset, from any position on.
#[test]
fn ranks_and_resumed_runs_agree() {
    let mock = MockConfig {
        seq_length: 16,
        image_seq_len: 4,
        image_height: 2,
        image_width: 2,
        num_samples: 10,
        ..MockConfig::default()
    };
    let dataset = Arc::new(MockDataset::new(mock).unwrap());
    let blended = Blended::new(dataset, ranges(&[6, 4]), vec![0.9, 0.1]).unwrap();
    let order = blended.order(7, true);
    let expected: Vec<u64> = (0..24).map(|position| order.index(position)).collect();
    assert_eq!(expected[..10], [5, 3, 0, 3, 4, 0, 1, 2, 2, 9], "of order.py");
    assert_ne!(
        (0..24).map(|position| blended.order(8, true).index(position)).collect::<Vec<_>>(),
        expected
    );
    for consumed in [0, 1, 5, 12] {
        let mut seen = vec![0; 12];
        for rank in 0..3 {
            let sampler = BatchSampler {
                global_batch_size: 12,
                micro_batch_size: 2,
                data_parallel_size: 3,
                data_parallel_rank: rank,
            };
            for n in 0..2 {
                let at = ((n * 3 + rank) * 2) as usize;
                seen[at..at + 2].copy_from_slice(&sampler.microbatch(&*order, consumed, n));
            }
        }
        assert_eq!(seen, expected[consumed as usize..consumed as usize + 12]);
    }
}

#[test]
fn weights_that_do_not_fit_are_refused() {
    for (lengths, weights, expected) in [
        (&[5, 5][..], &[1.0][..], "weights: 1 weight(s) for 2 file(s): give each file one"),
        (&[5], &[], "weights: 0 weight(s) for 1 file(s): give each file one"),
        (&[5, 5], &[1.0, -0.5], "weights: -0.5 is not a weight: it must be 0 or more"),
        (&[5, 5], &[f64::NAN, 1.0], "weights: NaN is not a weight: it must be 0 or more"),
        (&[5], &[f64::INFINITY], "weights: inf is not a weight: it must be 0 or more"),
        (&[5, 5], &[0.0, 0.0], "weights: all are 0: at least one file needs a weight above 0"),
        (
            &[5, 0],
            &[0.0, 2.0],
            "weights: file 1 has the weight 2, but no sample: set the weight to 0",
        ),
    ] {
        let error = BlendedOrder::new(&ranges(lengths), weights, 0, true).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}
