//! The order of samples, and its independence of the parallel layout.

use std::collections::{BTreeMap, BTreeSet};

use neva_data::{BatchSampler, Order};

#[test]
fn every_epoch_is_a_permutation_of_its_own() {
    for len in [1, 2, 3, 5, 7, 16, 100, 1000, 1025] {
        let mut seen = BTreeSet::new();
        for seed in [0, 1234] {
            for epoch in 0..3 {
                let order = Order { seed, len, shuffle: true };
                let indices: Vec<u64> = (epoch * len..(epoch + 1) * len).map(|position| order.index(position)).collect();
                let set: BTreeSet<u64> = indices.iter().copied().collect();
                assert_eq!(set, (0..len).collect(), "len {len} seed {seed} epoch {epoch}");
                seen.insert(indices);
            }
        }
        assert!(len < 16 || seen.len() == 6, "len {len}: epochs repeat");
    }
    let plain = Order {
        seed: 1,
        len: 3,
        shuffle: false,
    };
    assert_eq!(
        (0..7).map(|position| plain.index(position)).collect::<Vec<_>>(),
        [0, 1, 2, 0, 1, 2, 0]
    );
}

/// A checkpoint stores `consumed_samples` only, so the order must never change: do not update these numbers.
#[test]
fn the_order_is_pinned() {
    let order = Order {
        seed: 1234,
        len: 10,
        shuffle: true,
    };
    assert_eq!((0..20).map(|position| order.index(position)).collect::<Vec<_>>(), PINNED);
}

const PINNED: [u64; 20] = [3, 5, 7, 1, 6, 2, 9, 8, 0, 4, 0, 5, 9, 6, 8, 4, 2, 3, 1, 7];

#[test]
fn permutations_are_uniform() {
    let mut counts = BTreeMap::new();
    let order = Order {
        seed: 5,
        len: 4,
        shuffle: true,
    };
    for epoch in 0..24_000 {
        let permutation: Vec<u64> = (0..4).map(|i| order.index(epoch * 4 + i)).collect();
        *counts.entry(permutation).or_insert(0i32) += 1;
    }
    assert_eq!(counts.len(), 24);
    // The expected count is 1000, with a standard deviation of 31.
    assert!(counts.values().all(|count| (count - 1000).abs() < 160), "{counts:?}");
}

#[test]
fn ranks_and_microbatches_partition_each_global_batch() {
    let order = Order {
        seed: 3,
        len: 10,
        shuffle: true,
    };
    let global_batch_size = 12;
    for step in 0..4 {
        let expected: Vec<u64> = (step * 12..(step + 1) * 12).map(|position| order.index(position)).collect();
        for (micro_batch_size, data_parallel_size) in [(1, 1), (12, 1), (3, 2), (1, 12), (2, 3), (4, 3)] {
            let mut seen = Vec::new();
            let ranks: Vec<BatchSampler> = (0..data_parallel_size)
                .map(|data_parallel_rank| BatchSampler {
                    global_batch_size,
                    micro_batch_size,
                    data_parallel_size,
                    data_parallel_rank,
                })
                .collect();
            let per_step = ranks[0].num_microbatches();
            for j in 0..per_step {
                for rank in &ranks {
                    assert_eq!(rank.problem(), None);
                    let batch = rank.microbatch(&order, 0, step * per_step + j);
                    assert_eq!(batch.len() as u64, micro_batch_size);
                    // A run that resumes at the start of the step gets the same microbatches.
                    assert_eq!(rank.microbatch(&order, step * global_batch_size, j), batch);
                    seen.extend(batch);
                }
            }
            assert_eq!(seen, expected, "step {step}, micro {micro_batch_size}, ranks {data_parallel_size}");
            assert_eq!(ranks[0].global_batch(&order, step * global_batch_size), expected);
        }
    }
}

#[test]
fn sizes_that_do_not_divide_are_reported() {
    let sampler = |global_batch_size, micro_batch_size, data_parallel_size, data_parallel_rank| BatchSampler {
        global_batch_size,
        micro_batch_size,
        data_parallel_size,
        data_parallel_rank,
    };
    for (sampler, expected) in [
        (
            sampler(8, 3, 1, 0),
            "global_batch_size 8 is not a positive multiple of micro_batch_size 3",
        ),
        (sampler(8, 0, 1, 0), "micro_batch_size 0"),
        (sampler(8, 1, 2, 2), "data_parallel_rank 2 is not below"),
    ] {
        let problem = sampler.problem().unwrap();
        assert!(problem.contains(expected), "{problem}");
    }
}
