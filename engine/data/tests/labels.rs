//! Search for a sample with labels in a dataset.

use neva_data::{DataError, Dataset, IGNORE_INDEX, IMAGE_TOKEN_INDEX, MergeOptions, Pixels, Sample, Unlabelled, merge};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A dataset that counts reads. A sample without ids cannot be read.
struct Counted {
    samples: Vec<Sample>,
    read: AtomicUsize,
}

impl Dataset for Counted {
    fn len(&self) -> usize {
        self.samples.len()
    }

    fn get(&self, index: usize) -> Result<Sample, DataError> {
        self.read.fetch_add(1, Ordering::Relaxed);
        let sample = self.samples[index].clone();
        if sample.ids.is_empty() {
            return Err(DataError::Index { index, len: self.len() });
        }
        Ok(sample)
    }

    fn name(&self, index: usize) -> String {
        self.samples[index].name.clone()
    }
}

/// A sample of `t` tokens, with an image at each of `images` and labels at `labels`.
fn sample(name: &str, t: usize, images: &[usize], labels: &[usize]) -> Sample {
    let at = |places: &[usize], there: i64, elsewhere: i64| -> Vec<i64> {
        (0..t).map(|i| if places.contains(&i) { there } else { elsewhere }).collect()
    };
    let pixels = Pixels::empty(4, 4);
    Sample {
        name: name.to_owned(),
        ids: at(images, IMAGE_TOKEN_INDEX, 7),
        labels: at(labels, 7, IGNORE_INDEX),
        images: vec![pixels; images.len()],
    }
}

const OPTIONS: MergeOptions = MergeOptions {
    image_seq_len: 10,
    max_length: 16,
    row_multiple: 4,
    fixed_length: false,
    packed: false,
};

/// Returns the result, and the number of samples that were read.
fn find(samples: Vec<Sample>) -> (Option<Unlabelled>, usize) {
    let dataset = Counted {
        samples,
        read: AtomicUsize::new(0),
    };
    (Unlabelled::find(&dataset, &OPTIONS), dataset.read.into_inner())
}

#[test]
fn the_search_stops_at_the_first_sample_with_labels() {
    let (none, cut, labelled) = (
        || sample("none", 9, &[], &[]),
        || sample("cut", 40, &[], &[30]),
        || sample("labelled", 9, &[1], &[5]),
    );
    assert_eq!(find(vec![labelled(), none()]), (None, 1));
    assert_eq!(find(vec![none(), cut(), labelled(), none()]), (None, 3));
    // A sample that cannot be read is reported by the step that reads it.
    assert_eq!(find(vec![none(), sample("broken", 0, &[], &[]), none()]), (None, 2));
    let nowhere = |samples, nearest: Option<(&str, usize)>| {
        let nearest = nearest.map(|(name, needed)| (name.to_owned(), needed));
        (Some(Unlabelled { samples, nearest }), samples)
    };
    assert_eq!(find(vec![none(), none()]), nowhere(2, None));
    // Token 21 is the target of position 20; a row of 21 positions is padded to a multiple of 4.
    assert_eq!(
        find(vec![none(), cut(), sample("nearer", 40, &[], &[21])]),
        nowhere(3, Some(("nearer", 24)))
    );
    // The first token of a sample is the target of no position, and an image cannot be predicted.
    assert_eq!(
        find(vec![sample("first", 9, &[], &[0]), sample("image", 9, &[4], &[4])]),
        nowhere(2, None)
    );
}

/// The reported length keeps a label; the next shorter one does not.
#[test]
fn the_reported_length_is_the_smallest_that_keeps_a_label() {
    for (images, label) in [(vec![], 20), (vec![1], 9), (vec![1, 5], 8), (vec![2], 8), (vec![3], 17)] {
        let sample = sample("s", 40, &images, &[label]);
        let (found, _) = find(vec![sample.clone()]);
        let (_, needed) = found.unwrap().nearest.unwrap();
        let labels = |max_length| {
            let options = MergeOptions { max_length, ..OPTIONS };
            merge(&[sample.sequence()], &options).unwrap().total_labels()
        };
        assert_eq!((labels(needed), labels(needed - 4)), (1, 0), "{images:?}, {label}");
    }
}
