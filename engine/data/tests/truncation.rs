//! Samples that are cut at the maximum length are counted, and reported at the first, the tenth, the hundredth.

use neva_data::{Batch, IMAGE_TOKEN_INDEX, MergeOptions, Pixels, Sample, Truncated, TruncationCounter};

/// Returns a sample of `text` inputs and some images.
fn sample(name: &str, text: usize, images: usize) -> Sample {
    let mut ids = vec![1; text + 1];
    ids.splice(1..1, vec![IMAGE_TOKEN_INDEX; images]);
    Sample {
        name: name.to_owned(),
        labels: ids.clone(),
        ids,
        images: vec![Pixels::empty(2, 2); images],
    }
}

fn options(packed: bool) -> MergeOptions {
    MergeOptions {
        image_seq_len: 4,
        max_length: 16,
        row_multiple: 8,
        fixed_length: false,
        packed,
    }
}

#[test]
fn a_batch_counts_the_samples_that_it_cuts() {
    // Text and images of each sample, the number of samples that are cut, and the longest of these.
    type Case<'a> = (&'a [(usize, usize)], usize, Option<(&'a str, usize)>);
    let cases: &[Case<'_>] = &[
        (&[(16, 0)], 0, None),
        (&[(17, 0)], 1, Some(("0", 17))),
        (&[(12, 1)], 0, None),
        (&[(13, 1)], 1, Some(("0", 17))),
        (&[(3, 0), (30, 0), (2, 5), (2, 9), (1, 1)], 3, Some(("3", 38))),
    ];
    for packed in [false, true] {
        for (samples, count, longest) in cases {
            let samples: Vec<_> = (0..)
                .zip(*samples)
                .map(|(n, (text, images))| sample(&format!("{n}"), *text, *images))
                .collect();
            let batch = Batch::collate(&samples, &options(packed)).unwrap();
            let longest = longest.map(|(name, length)| (name.to_owned(), length));
            assert_eq!(batch.truncated, Truncated { samples: *count, longest });
        }
    }
}

#[test]
fn warnings_come_at_powers_of_ten() {
    let mut counter = TruncationCounter::new(16, 8);
    let mut warned = Vec::new();
    for n in 0..150 {
        let pair = [sample("short", 5, 0), sample(&format!("s{n}"), 15 + n % 40, 0)];
        let batch = Batch::collate(&pair, &options(false)).unwrap();
        warned.extend(
            counter
                .add(batch.tokens.num_labels.len(), &batch.truncated)
                .map(|warning| (n, warning)),
        );
    }
    assert_eq!(
        warned,
        [
            (
                2,
                "1 of the 6 samples read so far are longer than seq_length 16 and were cut; the longest is s2 with 17 positions: set \
                 finetune.data.seq_length to 24 or more to keep all"
                    .to_owned()
            ),
            (
                11,
                "10 of the 24 samples read so far are longer than seq_length 16 and were cut; the longest is s11 with 26 positions: set \
                 finetune.data.seq_length to 32 or more to keep all"
                    .to_owned()
            ),
            (
                105,
                "100 of the 212 samples read so far are longer than seq_length 16 and were cut; the longest is s39 with 54 positions: set \
                 finetune.data.seq_length to 56 or more to keep all"
                    .to_owned()
            ),
        ]
    );
    assert_eq!(counter.total().samples, 142);
}
