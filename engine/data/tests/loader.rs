//! The prefetching loader returns the same batches as a loop without threads.

#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use neva_data::{
    Batch, BatchSampler, DataError, Dataset, Loader, MergeOptions, MockConfig, MockDataset, Order, Sample, Subset, WithoutPixels,
};

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
        let source = move |n| (n < 13).then(|| Batch::microbatch(&*dataset, &ORDER, &RANK_1_OF_2, &OPTIONS, 8, n));
        collected(source, num_workers, prefetch)
    };
    // The third global batch has one sample, which belongs to the other rank.
    let validation = |num_workers: usize, prefetch: usize| -> Vec<Option<Batch>> {
        let dataset: Arc<dyn Dataset> = Arc::new(MockDataset::validation(config.clone(), 9).unwrap());
        let source = move |n| Some(Batch::from_indices(&*dataset, &RANK_1_OF_2.validation(9, None, n)?, &OPTIONS));
        collected(source, num_workers, prefetch)
    };
    let (expected, expected_validation) = (batches(0, 0), validation(0, 0));
    assert!(expected.len() == 13 && expected[0] != expected[1]);
    for (n, batch) in (0..).zip(&expected) {
        assert_eq!(batch.samples, RANK_1_OF_2.microbatch(&ORDER, 8, n));
        assert_eq!(batch.samples.len(), batch.tokens.b);
    }
    let seen: Vec<_> = expected_validation
        .iter()
        .map(|batch| batch.as_ref().map(|b| &b.samples[..]))
        .collect();
    assert_eq!(seen, [Some(&[2, 3][..]), Some(&[6, 7]), None]);
    for (num_workers, prefetch) in [(1, 0), (1, 3), (2, 1), (3, 2), (4, 2), (8, 4)] {
        assert_eq!(batches(num_workers, prefetch), expected, "{num_workers} workers");
        assert_eq!(validation(num_workers, prefetch), expected_validation, "{num_workers} workers");
    }
}

const ORDER: Order = Order {
    seed: 1,
    len: 11,
    shuffle: true,
};

const RANK_1_OF_2: BatchSampler = BatchSampler {
    global_batch_size: 4,
    micro_batch_size: 2,
    data_parallel_size: 2,
    data_parallel_rank: 1,
};

const OPTIONS: MergeOptions = MergeOptions {
    image_seq_len: 4,
    max_length: 24,
    row_multiple: 1,
    fixed_length: false,
    packed: false,
};

/// Returns all batches of a finite source.
fn collected<B: Send + 'static>(
    source: impl Fn(u64) -> Option<Result<B, DataError>> + Send + Sync + 'static,
    num_workers: usize,
    prefetch: usize,
) -> Vec<B> {
    within_deadline(move || {
        let loader = Loader::new(source, num_workers, prefetch).unwrap();
        loader.collect::<Result<_, _>>().unwrap()
    })
}

#[test]
fn errors_keep_their_position_and_the_loader_ends_with_the_source() {
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
fn workers_prefetch_a_bounded_number_and_stop_with_the_loader() {
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
    // The last thread drops the source and its counter.
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
    assert_eq!(items, ["0", "1", "2", "data worker 1 panicked: see its message above"]);
}

/// Runs `work` on its own thread, and fails if it does not end within the deadline.
fn within_deadline<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    let thread = thread::spawn(move || sender.send(work()).unwrap());
    let result = receiver
        .recv_timeout(Duration::from_secs(60))
        .expect("the loader hangs or panicked");
    thread.join().unwrap();
    result
}

/// Only the pixels differ, both for mock samples and with the default implementation of the trait.
#[test]
fn without_pixels_everything_else_is_the_same() {
    struct Plain(MockDataset);
    impl Dataset for Plain {
        fn len(&self) -> usize {
            self.0.len()
        }
        fn get(&self, index: usize) -> Result<Sample, DataError> {
            self.0.get(index)
        }
        fn name(&self, index: usize) -> String {
            self.0.name(index)
        }
    }
    let config = MockConfig {
        seq_length: 24,
        image_seq_len: 4,
        image_height: 4,
        image_width: 6,
        num_samples: 5,
        ..MockConfig::default()
    };
    let mock = MockDataset::new(config).unwrap();
    let subset = Subset::new(Arc::new(mock.clone()), vec![3, 1]).unwrap();
    for (dataset, of) in [
        (Arc::new(mock.clone()) as Arc<dyn Dataset>, vec![0, 1, 2, 3, 4]),
        (Arc::new(Plain(mock.clone())), vec![0, 1, 2, 3, 4]),
        (Arc::new(subset), vec![3, 1]),
    ] {
        let without = WithoutPixels(dataset);
        assert_eq!(without.len(), of.len());
        for (index, number) in of.into_iter().enumerate() {
            let mut expected = mock.get(number).unwrap();
            expected.images.iter_mut().for_each(|image| image.chw.clear());
            assert_eq!((without.get(index).unwrap(), without.name(index)), (expected, mock.name(number)));
        }
        assert!(matches!(without.get(9), Err(DataError::Index { .. })));
    }
}
