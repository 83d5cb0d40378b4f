//! Gradient buckets, and the traffic of their reduction.

use neva_layout::{Bucket, DpCpTraffic, buckets};

fn contents(buckets: &[Bucket]) -> Vec<(Vec<usize>, usize)> {
    buckets
        .iter()
        .map(|bucket| (bucket.members.iter().map(|member| member.index).collect(), bucket.len))
        .collect()
}

#[test]
fn buckets_start_with_the_last_parameters() {
    for (numels, alone, size, multiple, expected) in [
        (&[3, 4, 5][..], None, 9, 1, vec![(vec![2, 1], 9), (vec![0], 3)]),
        (&[3, 4, 5], None, 8, 4, vec![(vec![2], 8), (vec![1, 0], 8)]),
        // A parameter larger than the bucket size gets its own bucket; with size 0 each one does.
        (&[1, 100, 1], None, 10, 1, vec![(vec![2], 1), (vec![1], 100), (vec![0], 1)]),
        (&[1, 2], None, 0, 2, vec![(vec![1], 2), (vec![0], 2)]),
        (&[1, 2, 3], None, usize::MAX, 1, vec![(vec![2, 1, 0], 6)]),
        // A parameter with its own bucket closes the bucket before it.
        (&[1, 2, 3, 4], Some(1), 100, 1, vec![(vec![3, 2], 7), (vec![1], 2), (vec![0], 1)]),
        (&[1, 2], Some(1), 100, 64, vec![(vec![1], 64), (vec![0], 64)]),
        (&[], None, 10, 8, vec![]),
    ] {
        assert_eq!(contents(&buckets(numels, alone, size, multiple)), expected, "{numels:?} in {size}");
    }
}

#[test]
fn buckets_hold_each_value_once() {
    let numels: Vec<_> = (1..60).map(|n| n * n % 37 + 1).collect();
    for size in [1, 10, 50, 1000] {
        let mut seen = vec![0; numels.len()];
        for bucket in buckets(&numels, Some(7), size, 8) {
            let mut end = 0;
            for member in &bucket.members {
                assert_eq!(member.start, end);
                assert_eq!(member.numel, numels[member.index]);
                end += member.numel;
                seen[member.index] += 1;
            }
            assert!(bucket.len.is_multiple_of(8) && (end..end + 8).contains(&bucket.len));
            assert!(end <= size || bucket.members.len() == 1);
        }
        assert!(seen.iter().all(|times| *times == 1));
    }
}

#[test]
fn distributed_traffic_equals_plain_traffic_and_is_less_in_bf16() {
    // Full LLaVA-1.5-7B over 8 ranks: 6.7 G values in fp32.
    let whole = buckets(&[6_738_000_000], None, 1 << 25, 64 * 8);
    let sent = |weight_bytes| {
        let traffic = DpCpTraffic::of(&whole, 4, weight_bytes, 8);
        traffic.all_reduce + traffic.reduce_scatter + traffic.all_gather
    };
    let (plain, fp32, bf16) = (sent(None), sent(Some(4)), sent(Some(2)));
    assert_eq!(plain, fp32);
    assert!((bf16 as f64 / plain as f64 - 0.75).abs() < 1e-3);
    assert_eq!(DpCpTraffic::of(&whole, 4, None, 1), DpCpTraffic::default());
    assert_eq!(*whole.first().map(|bucket| &bucket.len).unwrap() % 512, 0);
}
