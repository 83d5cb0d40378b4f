//! The token merge: replaces each image placeholder by the positions of the image's features.
//!
//! Follows NeMo's `MCoreNevaModel._preprocess_data`, with two differences that do not change the loss. Rows are padded
//! to the longest *merged* row (NeMo pads the text first, so its batch may be longer). Labels and loss mask are one vector
//! ([`IGNORE_INDEX`] where the mask is 0).
//!
//! With 576 positions per image, the sequence `ids [0, 1, P, 2, 3]`, `labels [1, P, 2, 3, 4]` becomes 580 positions:
//!
//! ```text
//! position   0   1   2 .. 577   578  579
//! input      0   1   P  ..  P     2    3
//! label      1   -   -  ..  -     3    4
//! ```
//!
//! The token before an image has no target, because an image cannot be predicted. The last position of an image has no
//! target either, although a text token follows: NeMo masks it. (LLaVA's own code trains it. The two differ only where
//! an answer directly follows an image, as in caption pretraining.)

use crate::{
    error::DataError,
    pack::pack,
    sample::{IGNORE_INDEX, IMAGE_TOKEN_INDEX},
    sequence::Sequence,
};

/// Settings of [`merge`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeOptions {
    /// Number of positions per image (576 for CLIP ViT-L/14 at 336).
    pub image_seq_len: usize,
    /// Maximum length: samples are truncated at the right, also within an image.
    pub max_length: usize,
    /// Rows are padded to a multiple of this: `2 * cp * tp` with context and sequence parallelism, `2 * cp` or `tp`
    /// with one of the two, otherwise 1.
    pub row_multiple: usize,
    /// Pads all rows to `max_length`, as pipeline stages and overlapped tensor-parallel communication need it.
    pub fixed_length: bool,
    /// Sequence packing: puts several samples into one row where they fit into `max_length` without truncation.
    pub packed: bool,
}

/// A batch of token rows with image positions; each position is one input embedding of the language model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MergedBatch {
    /// Number of rows.
    pub b: usize,
    /// Number of positions per row.
    pub s: usize,
    /// Token ids, [`IMAGE_TOKEN_INDEX`] at each position of an image, 0 as padding. Shape `[b, s]`.
    pub input_ids: Vec<i64>,
    /// Target of each position, [`IGNORE_INDEX`] where there is none. Shape `[b, s]`.
    pub labels: Vec<i64>,
    /// End position (exclusive) of each sample, for each row. Positions after a row's last sample are padding.
    pub segments: Vec<Vec<usize>>,
    /// Index of each of these samples, for each row.
    pub rows: Vec<Vec<usize>>,
    /// Number of labels of each sample. A sample without labels stays in the batch and does not affect the loss.
    pub num_labels: Vec<usize>,
    /// Images (the last of a sample possibly truncated) that remain after truncation, row by row from left to right.
    pub images: Vec<ImageSpan>,
    /// Number of images of the samples, before truncation.
    pub num_images: usize,
}

/// Position of one image in a merged batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageSpan {
    /// Index among all images of the batch's samples, in order.
    pub image: usize,
    /// Row index in the batch.
    pub row: usize,
    /// First position within the row.
    pub start: usize,
    /// Number of positions: `image_seq_len`, or fewer for a truncated image, of which the first `len` feature rows remain.
    pub len: usize,
}

impl Sequence<'_> {
    /// Returns whether token `i` has a target. The token before an image has none, whatever its label.
    fn has_target(&self, i: usize) -> bool {
        self.labels[i] >= 0 && self.ids.get(i + 1) != Some(&IMAGE_TOKEN_INDEX)
    }

    /// Returns the position of the first target, with `image_seq_len` positions per image and without truncation.
    #[must_use]
    pub fn first_label(&self, image_seq_len: usize) -> Option<usize> {
        let mut position = 0;
        for (i, &id) in self.ids.iter().enumerate().take(self.labels.len()) {
            if id == IMAGE_TOKEN_INDEX {
                position += image_seq_len;
            } else if self.has_target(i) {
                return Some(position);
            } else {
                position += 1;
            }
        }
        None
    }
}

impl MergedBatch {
    /// Returns the indices of all image positions in the flattened `[b * s]`, in the order of [`Self::feature_rows`].
    #[must_use]
    pub fn image_positions(&self) -> Vec<i64> {
        let positions = |span: &ImageSpan| {
            let start = span.row * self.s + span.start;
            (start..start + span.len).map(|position| position as i64)
        };
        self.images.iter().flat_map(positions).collect()
    }

    /// Returns the indices of the feature rows that go to the image positions, in the flattened features
    /// `[remaining images * image_seq_len]`. Returns `None` if no image is truncated, so that all rows are used in order.
    #[must_use]
    pub fn feature_rows(&self, image_seq_len: usize) -> Option<Vec<i64>> {
        if self.images.iter().all(|span| span.len == image_seq_len) {
            return None;
        }
        let rows = |(i, span): (usize, &ImageSpan)| (0..span.len).map(move |row| (i * image_seq_len + row) as i64);
        Some(self.images.iter().enumerate().flat_map(rows).collect())
    }

    /// Returns the length of each row without its padding.
    #[must_use]
    pub fn seq_lens(&self) -> Vec<usize> {
        self.segments.iter().map(|ends| ends.last().copied().unwrap_or(0)).collect()
    }

    /// Returns the number of labels of the whole batch.
    #[must_use]
    pub fn total_labels(&self) -> usize {
        self.num_labels.iter().sum()
    }
}

/// Merges samples into the rows of a batch: one row per sample, or fewer with packing.
///
/// # Errors
/// Returns an error if the numbers of images and placeholders of a sample differ, if its numbers of ids and labels differ,
/// if there is no sample, or if `max_length` is not a multiple of `row_multiple`.
pub fn merge(sequences: &[Sequence<'_>], options: &MergeOptions) -> Result<MergedBatch, DataError> {
    let rows = if options.packed {
        pack(&lengths(sequences, options), options.max_length)
    } else {
        (0..sequences.len()).map(|sample| vec![sample]).collect()
    };
    merge_rows(sequences, rows, options, options.max_length)
}

/// Merges samples into the given rows, of at most `row_length` positions. Each sample is in one row.
///
/// # Errors
/// Returns the errors of [`merge`], and [`DataError::RowTooLong`].
pub fn merge_rows(
    sequences: &[Sequence<'_>],
    rows: Vec<Vec<usize>>,
    options: &MergeOptions,
    row_length: usize,
) -> Result<MergedBatch, DataError> {
    let MergeOptions {
        row_multiple,
        fixed_length,
        image_seq_len,
        ..
    } = *options;
    if sequences.is_empty() {
        return Err(DataError::EmptyBatch);
    }
    if row_multiple == 0 || row_length == 0 || !row_length.is_multiple_of(row_multiple) {
        return Err(DataError::RowMultiple {
            max_length: row_length,
            row_multiple,
        });
    }
    sequences.iter().try_for_each(check)?;

    let lengths = lengths(sequences, options);
    let length = |samples: &Vec<usize>| samples.iter().map(|sample| lengths[*sample]).sum::<usize>();
    let longest = rows.iter().max_by_key(|samples| length(samples));
    if let Some(first) = longest
        .filter(|samples| length(samples) > row_length)
        .and_then(|samples| samples.first())
    {
        return Err(DataError::RowTooLong {
            sample: sequences[*first].name.to_owned(),
            length: longest.map_or(0, length),
            row_length,
        });
    }
    let s = match longest.map_or(0, length).max(1) {
        _ if fixed_length => row_length,
        longest => longest.next_multiple_of(row_multiple),
    };
    let before = sequences.iter().scan(0, |images, sequence| {
        *images += sequence.num_images;
        Some(*images - sequence.num_images)
    });
    let first_image: Vec<_> = before.collect();
    let mut batch = MergedBatch {
        b: rows.len(),
        s,
        input_ids: vec![0; rows.len() * s],
        labels: vec![IGNORE_INDEX; rows.len() * s],
        segments: Vec::with_capacity(rows.len()),
        rows: Vec::new(),
        num_labels: vec![0; sequences.len()],
        images: Vec::new(),
        num_images: sequences.iter().map(|sequence| sequence.num_images).sum(),
    };
    for (row, samples) in rows.iter().enumerate() {
        let mut ends = Vec::with_capacity(samples.len());
        let mut start = 0;
        for &sample in samples {
            let span = SampleSpan {
                row,
                start,
                end: start + lengths[sample],
                first_image: first_image[sample],
            };
            batch.num_labels[sample] = span.write(&mut batch, &sequences[sample], image_seq_len);
            start = span.end;
            ends.push(start);
        }
        batch.segments.push(ends);
    }
    batch.rows = rows;
    Ok(batch)
}

/// Returns the length of each sample, truncated to `max_length`.
fn lengths(sequences: &[Sequence<'_>], options: &MergeOptions) -> Vec<usize> {
    let length = |sequence: &Sequence<'_>| sequence.merged_length(options.image_seq_len).min(options.max_length);
    sequences.iter().map(length).collect()
}

/// Position of one sample in a merged batch.
struct SampleSpan {
    row: usize,
    /// First position within the row.
    start: usize,
    /// End position (exclusive); the rest of the sample is truncated.
    end: usize,
    /// Index of the sample's first image among all images of the batch.
    first_image: usize,
}

impl SampleSpan {
    /// Writes a sample into the batch and returns the number of its labels.
    fn write(&self, batch: &mut MergedBatch, sample: &Sequence<'_>, image_seq_len: usize) -> usize {
        let (s, end) = (batch.s, self.end);
        let ids = &mut batch.input_ids[self.row * s..][..end];
        let labels = &mut batch.labels[self.row * s..][..end];
        let (mut position, mut image, mut num_labels) = (self.start, self.first_image, 0);
        for (i, &id) in sample.ids.iter().enumerate() {
            if position == end {
                break;
            }
            if id == IMAGE_TOKEN_INDEX {
                let len = image_seq_len.min(end - position);
                ids[position..position + len].fill(IMAGE_TOKEN_INDEX);
                batch.images.push(ImageSpan {
                    image,
                    row: self.row,
                    start: position,
                    len,
                });
                image += 1;
                position += len;
            } else {
                ids[position] = id;
                if sample.has_target(i) {
                    labels[position] = sample.labels[i];
                    num_labels += 1;
                }
                position += 1;
            }
        }
        num_labels
    }
}

fn check(sequence: &Sequence<'_>) -> Result<(), DataError> {
    let placeholders = sequence.ids.iter().filter(|&&id| id == IMAGE_TOKEN_INDEX).count();
    if placeholders != sequence.num_images {
        return Err(DataError::ImageCount {
            sample: sequence.name.to_owned(),
            placeholders,
            images: sequence.num_images,
        });
    }
    if sequence.ids.len() != sequence.labels.len() {
        return Err(DataError::LabelCount {
            sample: sequence.name.to_owned(),
            ids: sequence.ids.len(),
            labels: sequence.labels.len(),
        });
    }
    Ok(())
}
