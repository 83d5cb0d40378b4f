//! The order of samples, its independence of the layout, and the loader that follows it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use neva_data::{Batch, BatchSlice, DataError, Dataset, Loader, MergeOptions, MockConfig, MockDataset, Order};

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

/// A checkpoint holds `consumed_samples` only, so the order may never change: these numbers are for ever.
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
    // Each is expected 1000 times, with a standard deviation of 31.
    assert!(counts.values().all(|count| (count - 1000).abs() < 160), "{counts:?}");
}

#[test]
fn ranks_and_micro_batches_share_out_each_global_batch() {
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
            let ranks: Vec<BatchSlice> = (0..data_parallel_size)
                .map(|data_parallel_rank| BatchSlice {
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
                    // Resumed at the step's start, the micro-batches are the same.
                    assert_eq!(rank.microbatch(&order, step * global_batch_size, j), batch);
                    seen.extend(batch);
                }
            }
            assert_eq!(seen, expected, "step {step}, micro {micro_batch_size}, ranks {data_parallel_size}");
        }
    }
}

#[test]
fn sizes_that_do_not_divide_are_named() {
    let slice = |global_batch_size, micro_batch_size, data_parallel_size, data_parallel_rank| BatchSlice {
        global_batch_size,
        micro_batch_size,
        data_parallel_size,
        data_parallel_rank,
    };
    for (slice, expected) in [
        (
            slice(8, 3, 1, 0),
            "global_batch_size 8 is not a positive multiple of micro_batch_size 3",
        ),
        (slice(8, 0, 1, 0), "micro_batch_size 0"),
        (slice(8, 1, 2, 2), "data_parallel_rank 2 is not below"),
    ] {
        let problem = slice.problem().unwrap();
        assert!(problem.contains(expected), "{problem}");
    }
}

#[test]
fn any_number_of_workers_gives_the_same_batches() {
    let config = MockConfig {
        seq_length: 24,
        image_seq_len: 4,
        vocab_size: 50,
        image_height: 4,
        image_width: 4,
        num_samples: 11,
        ..MockConfig::default()
    };
    let batches = |num_workers: usize, prefetch: usize| -> Vec<Batch> {
        let dataset: Arc<dyn Dataset> = Arc::new(MockDataset::new(config.clone()).unwrap());
        let order = Order {
            seed: 1,
            len: 11,
            shuffle: true,
        };
        let slice = BatchSlice {
            global_batch_size: 4,
            micro_batch_size: 2,
            data_parallel_size: 2,
            data_parallel_rank: 1,
        };
        let options = MergeOptions {
            image_seq_len: 4,
            max_length: 24,
            row_multiple: 1,
            fixed_length: false,
        };
        let source = move |n| Some(Batch::microbatch(&*dataset, &order, &slice, &options, 8, n));
        within_deadline(move || {
            Loader::new(source, num_workers, prefetch)
                .unwrap()
                .take(13)
                .collect::<Result<_, _>>()
                .unwrap()
        })
    };
    let expected = batches(0, 0);
    assert!(expected.len() == 13 && expected[0] != expected[1]);
    for (num_workers, prefetch) in [(1, 0), (1, 3), (2, 1), (3, 2), (8, 4)] {
        assert_eq!(batches(num_workers, prefetch), expected, "{num_workers} workers");
    }
}

#[test]
fn errors_come_in_their_place_and_the_end_is_an_end() {
    for num_workers in [0, 1, 3] {
        let source = |n: u64| match n {
            4 => Some(Err(DataError::EmptyBatch)),
            0..10 => Some(Ok(n)),
            _ => None,
        };
        let items: Vec<Option<u64>> = within_deadline(move || Loader::new(source, num_workers, 2).unwrap().map(Result::ok).collect());
        let expected: Vec<Option<u64>> = (0..10).map(|n| (n != 4).then_some(n)).collect();
        assert_eq!(items, expected, "{num_workers} workers");
    }
}

#[test]
fn workers_run_a_bounded_way_ahead_and_stop_with_the_loader() {
    let (num_workers, prefetch, taken) = (3, 2, 5);
    let made = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&made);
    within_deadline(move || {
        let source = move |n| {
            counter.fetch_add(1, Ordering::SeqCst);
            Some(Ok(n))
        };
        let mut loader = Loader::new(source, num_workers, prefetch).unwrap();
        for n in 0..taken {
            assert_eq!(loader.next().unwrap().unwrap(), n);
        }
    });
    // The source, and with it its counter, is gone with the last thread.
    assert_eq!(Arc::strong_count(&made), 1);
    let made = made.load(Ordering::SeqCst);
    assert!(
        made >= taken && made <= taken + (num_workers * (prefetch + 1)) as u64,
        "{made} batches made"
    );
}

#[test]
fn a_panic_in_a_worker_is_an_error() {
    let source = |n: u64| {
        assert!(n != 3, "the panic of this test");
        Some(Ok(n))
    };
    let items: Vec<String> = within_deadline(move || {
        let loader = Loader::new(source, 2, 1).unwrap();
        loader
            .map(|item| item.map_or_else(|error| error.to_string(), |n| n.to_string()))
            .collect()
    });
    assert_eq!(items, ["0", "1", "2", "data worker 1 has panicked: its message is above"]);
}

/// Runs `work` on a thread of its own, and fails if it is not done in time.
fn within_deadline<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    let thread = thread::spawn(move || sender.send(work()).unwrap());
    let result = receiver
        .recv_timeout(Duration::from_secs(60))
        .expect("the loader hangs or has panicked");
    thread.join().unwrap();
    result
}
