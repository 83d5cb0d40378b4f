//! The token merge: placeholders become the positions of picture features.
//!
//! Follows NeMo's `MCoreNevaModel._preprocess_data`, with two liberties that no loss can see: rows are padded to the
//! longest *combined* row (NeMo pads the text first, so that its batch may be longer), and labels and loss mask are one
//! vector ([`IGNORE`] where the mask is 0).
//!
//! With 576 positions per picture, the row `ids [0, 1, P, 2, 3]`, `labels [1, P, 2, 3, 4]` becomes 580 positions:
//!
//! ```text
//! position   0   1   2 .. 577   578  579
//! input      0   1   P  ..  P     2    3
//! label      1   -   -  ..  -     3    4
//! ```
//!
//! The token before a picture has no target (a picture cannot be predicted), and neither has the last position of a
//! picture, although a text token follows: NeMo masks it. (LLaVA's own code trains it. The two differ only where an
//! answer follows a picture directly, as in caption pretraining.)

use crate::{
    error::DataError,
    pack::pack,
    sample::{IGNORE, IMAGE},
};

/// Inputs and targets of one sample; `labels[i]` is the target of position `i`. See [`Sample::row`](crate::Sample::row).
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// Sample name, for messages.
    pub name: &'a str,
    /// Token ids, [`IMAGE`] once per picture. Shape `[t]`.
    pub ids: &'a [i64],
    /// Targets; a negative one is not trained. Shape `[t]`.
    pub labels: &'a [i64],
    /// How many pictures the sample has.
    pub images: usize,
}

/// How samples become the rows of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeOptions {
    /// Positions that one picture takes (576 for CLIP ViT-L/14 at 336).
    pub image_seq_len: usize,
    /// Samples are cut at the right to this length; pictures may be cut, too.
    pub max_length: usize,
    /// Rows are padded to a multiple of this: `2 * cp * tp` with context and sequence parallelism, `2 * cp` or `tp`
    /// with one of them, else 1.
    pub row_multiple: usize,
    /// Rows are always `max_length` long: pipeline stages and overlapped tensor-parallel communication need it.
    pub fixed_length: bool,
    /// Several samples may share a row, one behind the other, where they fit into `max_length` as they are.
    pub packed: bool,
}

/// A batch in which every position is one row of the language model's input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MergedBatch {
    /// Rows.
    pub b: usize,
    /// Positions per row.
    pub s: usize,
    /// Token ids, [`IMAGE`] at each position of a picture, 0 as padding. Shape `[b, s]`.
    pub input_ids: Vec<i64>,
    /// Target of each position, [`IGNORE`] where nothing is trained. Shape `[b, s]`.
    pub labels: Vec<i64>,
    /// Position behind each sample of a row, row by row; what lies behind a row's last one is padding.
    pub segments: Vec<Vec<usize>>,
    /// Trained positions of each sample. A sample of 0 stays in the batch with no weight.
    pub num_labels: Vec<usize>,
    /// The pictures (or heads of pictures) that survived truncation, row by row from left to right.
    pub images: Vec<ImageSpan>,
    /// Pictures of the samples, before truncation.
    pub num_pictures: usize,
}

/// Where one picture lies in a merged batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageSpan {
    /// Index among all pictures of the batch's samples, in order.
    pub picture: usize,
    /// Row of the batch.
    pub row: usize,
    /// First position within the row.
    pub start: usize,
    /// Positions: `image_seq_len`, or fewer when truncation cut the picture. Its first `len` feature rows remain.
    pub len: usize,
}

impl MergedBatch {
    /// Indices into the flattened `[b * s]` of all picture positions, in the order of [`Self::feature_rows`].
    #[must_use]
    pub fn image_positions(&self) -> Vec<i64> {
        let positions = |span: &ImageSpan| {
            let start = span.row * self.s + span.start;
            (start..start + span.len).map(|position| position as i64)
        };
        self.images.iter().flat_map(positions).collect()
    }

    /// Indices into the flattened features `[pictures kept * image_seq_len]` that the picture positions take.
    /// `None` when all kept pictures are whole, so that the features are taken as they are.
    #[must_use]
    pub fn feature_rows(&self, image_seq_len: usize) -> Option<Vec<i64>> {
        if self.images.iter().all(|span| span.len == image_seq_len) {
            return None;
        }
        let rows = |(i, span): (usize, &ImageSpan)| (0..span.len).map(move |row| (i * image_seq_len + row) as i64);
        Some(self.images.iter().enumerate().flat_map(rows).collect())
    }

    /// Positions of each row before its padding.
    #[must_use]
    pub fn seq_lens(&self) -> Vec<usize> {
        self.segments.iter().map(|ends| ends.last().copied().unwrap_or(0)).collect()
    }

    /// Trained positions of the whole batch.
    #[must_use]
    pub fn total_labels(&self) -> usize {
        self.num_labels.iter().sum()
    }
}

/// Merges the rows of a batch: one for each sample, or fewer where they are packed.
///
/// # Errors
/// When a sample has more or fewer pictures than placeholders, has an id or a label too many, when there is none, or
/// when `max_length` is not a multiple of `row_multiple`.
pub fn merge(rows: &[Row<'_>], options: &MergeOptions) -> Result<MergedBatch, DataError> {
    let MergeOptions {
        max_length,
        row_multiple,
        fixed_length,
        image_seq_len,
        packed,
    } = *options;
    if rows.is_empty() {
        return Err(DataError::EmptyBatch);
    }
    if row_multiple == 0 || max_length == 0 || max_length % row_multiple != 0 {
        return Err(DataError::RowMultiple { max_length, row_multiple });
    }
    rows.iter().try_for_each(check)?;

    let combined = |row: &Row<'_>| row.ids.len() - row.images + row.images * image_seq_len;
    let lengths: Vec<_> = rows.iter().map(|row| combined(row).min(max_length)).collect();
    let samples = if packed {
        pack(&lengths, max_length)
    } else {
        (0..rows.len()).map(|sample| vec![sample]).collect()
    };
    let taken = |samples: &Vec<usize>| samples.iter().map(|sample| lengths[*sample]).sum::<usize>();
    let longest = samples.iter().map(taken).max().unwrap_or(0).max(1);
    let s = if fixed_length {
        max_length
    } else {
        longest.next_multiple_of(row_multiple).min(max_length)
    };
    let before = rows.iter().scan(0, |pictures, row| {
        *pictures += row.images;
        Some(*pictures - row.images)
    });
    let first_picture: Vec<_> = before.collect();
    let mut batch = MergedBatch {
        b: samples.len(),
        s,
        input_ids: vec![0; samples.len() * s],
        labels: vec![IGNORE; samples.len() * s],
        segments: Vec::with_capacity(samples.len()),
        num_labels: vec![0; rows.len()],
        images: Vec::new(),
        num_pictures: rows.iter().map(|row| row.images).sum(),
    };
    for (row, samples) in samples.iter().enumerate() {
        let mut ends = Vec::with_capacity(samples.len());
        let mut start = 0;
        for &sample in samples {
            let place = Place {
                row,
                start,
                end: start + lengths[sample],
                first_picture: first_picture[sample],
            };
            batch.num_labels[sample] = place.write(&mut batch, &rows[sample], image_seq_len);
            start = place.end;
            ends.push(start);
        }
        batch.segments.push(ends);
    }
    Ok(batch)
}

/// Where a sample goes.
struct Place {
    row: usize,
    /// Its first position.
    start: usize,
    /// The position behind it; what the sample has beyond is cut.
    end: usize,
    /// Number of its first picture among all of the batch.
    first_picture: usize,
}

impl Place {
    /// Writes a sample; returns how many of its positions are trained.
    fn write(&self, batch: &mut MergedBatch, sample: &Row<'_>, image_seq_len: usize) -> usize {
        let (s, end) = (batch.s, self.end);
        let ids = &mut batch.input_ids[self.row * s..][..end];
        let labels = &mut batch.labels[self.row * s..][..end];
        let (mut position, mut picture, mut trained) = (self.start, self.first_picture, 0);
        for (i, &id) in sample.ids.iter().enumerate() {
            if position == end {
                break;
            }
            if id == IMAGE {
                let len = image_seq_len.min(end - position);
                ids[position..position + len].fill(IMAGE);
                batch.images.push(ImageSpan {
                    picture,
                    row: self.row,
                    start: position,
                    len,
                });
                picture += 1;
                position += len;
            } else {
                ids[position] = id;
                let before_picture = sample.ids.get(i + 1) == Some(&IMAGE);
                if sample.labels[i] >= 0 && !before_picture {
                    labels[position] = sample.labels[i];
                    trained += 1;
                }
                position += 1;
            }
        }
        trained
    }
}

fn check(row: &Row<'_>) -> Result<(), DataError> {
    let placeholders = row.ids.iter().filter(|&&id| id == IMAGE).count();
    if placeholders != row.images {
        return Err(DataError::ImageCount {
            sample: row.name.to_owned(),
            placeholders,
            pictures: row.images,
        });
    }
    if row.ids.len() != row.labels.len() {
        return Err(DataError::LabelCount {
            sample: row.name.to_owned(),
            ids: row.ids.len(),
            labels: row.labels.len(),
        });
    }
    Ok(())
}
