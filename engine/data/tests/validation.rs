//! Validation: the split, and that each sample is validated exactly once in every parallel layout.

use std::{collections::BTreeSet, sync::Arc};

use neva_data::{Batch, BatchSampler, Dataset, IMAGE_TOKEN_INDEX, MergeOptions, MockConfig, MockDataset, Split, Subset, split};
use proptest::prelude::*;

fn mock() -> MockConfig {
    MockConfig {
        seq_length: 16,
        image_seq_len: 4,
        image_height: 2,
        image_width: 2,
        num_samples: 50,
        ..MockConfig::default()
    }
}

const OPTIONS: MergeOptions = MergeOptions {
    image_seq_len: 4,
    max_length: 16,
    row_multiple: 1,
    fixed_length: false,
    packed: false,
};

#[test]
fn a_split_has_the_right_number_of_validation_samples() {
    let check = |len, fraction, expected: usize| {
        let split = split(len, fraction, 1).unwrap();
        assert_eq!(split.val.len(), expected, "{fraction} of {len}");
        assert_eq!(split.train.len(), len as usize - expected, "{fraction} of {len}");
    };
    check(0, 0.0, 0);
    check(1, 0.0, 0);
    check(1000, 0.0, 0);
    check(1000, 0.1, 100);
    check(1000, 0.0994, 99);
    check(1000, 0.0995, 100);
    // At least one sample, and never all.
    check(1000, 1e-9, 1);
    check(1000, 1.0, 999);
    check(2, 0.01, 1);
    check(2, 0.99, 1);
    check(3, 0.5, 2);
}

#[test]
fn an_impossible_split_reports_the_reason() {
    let check = |len, fraction, expected: &str| assert_eq!(split(len, fraction, 1).unwrap_err().to_string(), expected);
    let few = "at least 2 are needed: add samples or set `val_split` to 0";
    check(0, 0.1, &format!("cannot set aside 0.1 of 0 sample(s) for validation: {few}"));
    check(1, 1.0, &format!("cannot set aside 1.0 of 1 sample(s) for validation: {few}"));
    let range = "`val_split` must be a fraction between 0 and 1";
    check(9, -0.1, &format!("cannot set aside -0.1 of 9 sample(s) for validation: {range}"));
    check(9, 5.0, &format!("cannot set aside 5.0 of 9 sample(s) for validation: {range}"));
    check(9, f64::NAN, &format!("cannot set aside NaN of 9 sample(s) for validation: {range}"));
}

/// A resumed run must use the same validation samples: do not update these numbers.
#[test]
fn the_split_is_pinned() {
    let Split { train, val } = split(20, 0.25, 1234).unwrap();
    assert_eq!(val, [5, 7, 8, 9, 10]);
    assert_eq!(train, [0, 1, 2, 3, 4, 6, 11, 12, 13, 14, 15, 16, 17, 18, 19]);
    assert_ne!(split(20, 0.25, 1235).unwrap().val, val);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_split_is_a_partition_and_grows_with_its_fraction(len in 2..400u64, a in 0.0..=1.0f64, b in 0.0..=1.0f64, seed: u64) {
        let small = split(len, a.min(b), seed).unwrap();
        prop_assert!(small.train.is_sorted() && small.val.is_sorted());
        let all: BTreeSet<u64> = small.train.iter().chain(&small.val).copied().collect();
        prop_assert_eq!(all, (0..len).collect());
        prop_assert_eq!(small.train.len() + small.val.len(), len as usize);
        let large = split(len, a.max(b), seed).unwrap();
        prop_assert!(small.val.iter().all(|index| large.val.contains(index)));
    }

    #[test]
    fn every_layout_validates_each_sample_once(
        ranks in 1..6u64, micro in 1..5u64, accumulated in 1..4u64, samples in 0..150u64, limit in prop::option::of(0..8u64),
    ) {
        let global = ranks * micro * accumulated;
        let samplers: Vec<BatchSampler> = (0..ranks)
            .map(|data_parallel_rank| BatchSampler {
                global_batch_size: global,
                micro_batch_size: micro,
                data_parallel_size: ranks,
                data_parallel_rank,
            })
            .collect();
        let batches = samplers[0].num_batches(samples, limit);
        prop_assert_eq!(batches, limit.unwrap_or(u64::MAX).min(samples / global + u64::from(samples % global > 0)));
        let mut seen = Vec::new();
        for n in 0..batches * accumulated {
            for sampler in &samplers {
                // All ranks have the same number of microbatches.
                let microbatch = sampler.validation(samples, limit, n).unwrap();
                prop_assert!(microbatch.len() as u64 <= micro);
                seen.extend(microbatch);
            }
        }
        for sampler in &samplers {
            prop_assert_eq!(sampler.validation(samples, limit, batches * accumulated), None);
            prop_assert_eq!(sampler.validation(samples, limit, u64::MAX), None);
        }
        prop_assert_eq!(seen, (0..samples.min(batches * global)).collect::<Vec<_>>());
    }
}

#[test]
fn sizes_that_do_not_divide_give_no_microbatches() {
    for (global_batch_size, micro_batch_size, data_parallel_size) in [(0, 1, 1), (4, 0, 1), (4, 1, 0), (1, 2, 1)] {
        let sampler = BatchSampler {
            global_batch_size,
            micro_batch_size,
            data_parallel_size,
            data_parallel_rank: 0,
        };
        assert_eq!(sampler.validation(10, None, 0), None, "{sampler:?}");
    }
}

#[test]
fn mock_validation_samples_differ_from_training_samples() {
    let training = MockDataset::new(mock()).unwrap();
    let validation = MockDataset::validation(mock(), 20).unwrap();
    assert_eq!((training.len(), validation.len()), (50, 20));
    let text = |dataset: &MockDataset| -> BTreeSet<Vec<i64>> { (0..dataset.len()).map(|i| dataset.get(i).unwrap().ids).collect() };
    let pixels = |dataset: &MockDataset| -> BTreeSet<Vec<u32>> {
        let bits = |i| dataset.get(i).unwrap().images[0].chw.iter().map(|x| x.to_bits()).collect();
        (0..dataset.len()).map(bits).collect()
    };
    assert_eq!(text(&training).union(&text(&validation)).count(), 70);
    assert_eq!(pixels(&training).union(&pixels(&validation)).count(), 70);

    let (a, b) = (training.get(3).unwrap(), validation.get(3).unwrap());
    assert_eq!((a.ids.len(), a.images[0].chw.len()), (b.ids.len(), b.images[0].chw.len()));
    assert_eq!((a.name, b.name), (training.name(3), validation.name(3)));
    assert_eq!(
        (training.name(3), validation.name(3)),
        ("mock#3".into(), "mock validation#3".into())
    );
    assert_eq!(validation.name(20), "there is no sample 20 in a dataset of 20");
}

/// Recorded loss curves depend on these numbers: do not update them.
#[test]
fn mock_training_is_pinned() {
    let sample = MockDataset::new(mock()).unwrap().get(7).unwrap();
    assert_eq!(sample.ids[..6], [25_855, 13_539, IMAGE_TOKEN_INDEX, 19_035, 27_221, 23_426]);
    let grid: Vec<f32> = sample.images[0].chw[..3].iter().map(|x| x * (1 << 24) as f32).collect();
    assert_eq!(grid, [14_567_651.0, 15_702_917.0, 4_389_010.0]);
}

#[test]
fn a_subset_returns_samples_of_the_other_dataset() {
    let all: Arc<dyn Dataset> = Arc::new(MockDataset::new(mock()).unwrap());
    let Split { train, val } = split(50, 0.3, 9).unwrap();
    for indices in [train, val, vec![7, 7, 0], Vec::new()] {
        let subset = Subset::new(Arc::clone(&all), indices.clone()).unwrap();
        assert_eq!((subset.len(), subset.indices()), (indices.len(), &indices[..]));
        for (i, &index) in indices.iter().enumerate() {
            assert_eq!(subset.get(i).unwrap(), all.get(index as usize).unwrap());
            assert_eq!(subset.name(i), format!("mock#{index}"));
        }
        let beyond = format!("there is no sample {len} in a dataset of {len}", len = indices.len());
        assert_eq!(subset.get(indices.len()).unwrap_err().to_string(), beyond);
        assert_eq!(subset.name(indices.len()), beyond);
    }
    let error = Subset::new(all, vec![0, 50]).err().unwrap();
    assert_eq!(error.to_string(), "there is no sample 50 in a dataset of 50");
}

#[test]
fn a_batch_records_its_sample_indices() {
    let dataset = MockDataset::new(mock()).unwrap();
    assert_eq!(Batch::from_indices(&dataset, &[], &OPTIONS).unwrap(), None);
    let batch = Batch::from_indices(&dataset, &[4, 1, 4], &OPTIONS).unwrap().unwrap();
    let samples: Vec<_> = [4, 1, 4].map(|i| dataset.get(i).unwrap()).into();
    let collated = Batch::collate(&samples, &OPTIONS).unwrap();
    assert_eq!(
        (&batch.tokens, &batch.pixels, batch.pixel_shape),
        (&collated.tokens, &collated.pixels, collated.pixel_shape)
    );
    assert_eq!(batch.samples, [4, 1, 4]);
    assert!(collated.samples.is_empty());
    assert!(Batch::from_indices(&dataset, &[50], &OPTIONS).is_err());
}
