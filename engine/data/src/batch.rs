//! The input of one forward pass: several samples, collated.

use std::ops::Range;

use crate::{
    error::DataError,
    merge::{MergeOptions, MergedBatch, merge, merge_rows},
    order::{BatchSampler, SampleOrder},
    row_stream::{Row, RowStream},
    sample::{Dataset, Sample},
    sequence::Sequence,
    truncation::Truncated,
};

/// Token rows, and the pixels of the images in them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Inputs, targets and image positions.
    pub tokens: MergedBatch,
    /// Pixels of `tokens.images`, in that order. Shape [`Self::pixel_shape`].
    pub pixels: Vec<f32>,
    /// `[images, 3, height, width]`. All zero in a batch without pixels: it has no images, or their pixels were skipped
    /// ([`WithoutPixels`](crate::WithoutPixels)).
    pub pixel_shape: [usize; 4],
    /// Dataset index of each sample. Empty for samples that come from no dataset.
    pub samples: Vec<u64>,
    /// Position of each sample in the stream of training samples. Empty for samples of a validation.
    pub positions: Vec<u64>,
    /// Samples that were cut at the maximum length.
    pub truncated: Truncated,
    /// Samples between these rows and the ones before that no row has, because they are too long.
    pub left_out: u64,
}

impl Batch {
    /// Collates samples into one batch.
    ///
    /// # Errors
    /// Returns the errors of [`merge`], and [`DataError::ImageSize`] if the images differ in size.
    pub fn collate(samples: &[Sample], options: &MergeOptions) -> Result<Self, DataError> {
        Self::merged(samples, options, |sequences| merge(sequences, options))
    }

    /// Collates samples into one batch, whose rows `merge` makes.
    fn merged(
        samples: &[Sample],
        options: &MergeOptions,
        merge: impl FnOnce(&[Sequence<'_>]) -> Result<MergedBatch, DataError>,
    ) -> Result<Self, DataError> {
        let sequences: Vec<Sequence<'_>> = samples.iter().map(Sample::sequence).collect();
        let tokens = merge(&sequences)?;
        let truncated = Truncated::of(&sequences, options.image_seq_len, options.max_length);
        let all: Vec<_> = samples
            .iter()
            .flat_map(|sample| sample.images.iter().map(move |p| (sample, p)))
            .collect();
        let remaining = tokens.images.iter().map(|span| all[span.image]);
        let Some((_, first)) = remaining.clone().next() else {
            return Ok(Self {
                tokens,
                truncated,
                ..Self::default()
            });
        };
        let mut pixels = Vec::with_capacity(tokens.images.len() * first.chw.len());
        for (sample, image) in remaining {
            if (image.height, image.width) != (first.height, first.width) {
                return Err(DataError::ImageSize {
                    sample: sample.name.clone(),
                    size: (image.height, image.width),
                    expected: (first.height, first.width),
                });
            }
            pixels.extend_from_slice(&image.chw);
        }
        let pixel_shape = match pixels.as_slice() {
            [] => [0; 4],
            _ => [tokens.images.len(), 3, first.height, first.width],
        };
        Ok(Self {
            tokens,
            pixels,
            pixel_shape,
            samples: Vec::new(),
            positions: Vec::new(),
            truncated,
            left_out: 0,
        })
    }

    /// Loads and collates the samples at `indices`. Returns `None` if `indices` is empty.
    ///
    /// # Errors
    /// Returns the errors of [`Dataset::get`] and [`Self::collate`].
    pub fn from_indices(dataset: &dyn Dataset, indices: &[u64], options: &MergeOptions) -> Result<Option<Self>, DataError> {
        if indices.is_empty() {
            return Ok(None);
        }
        let batch = Self::collate(&load(dataset, indices)?, options)?;
        Ok(Some(Self {
            samples: indices.to_vec(),
            ..batch
        }))
    }

    /// Loads and collates the samples of `rows`, in rows of at most `row_length` positions if the stream has packed them.
    /// Returns `None` if there are no rows.
    ///
    /// # Errors
    /// Returns the errors of [`Self::from_indices`].
    pub fn from_rows(
        dataset: &dyn Dataset,
        rows: &[Row],
        options: &MergeOptions,
        row_length: Option<usize>,
    ) -> Result<Option<Self>, DataError> {
        if rows.is_empty() {
            return Ok(None);
        }
        let samples: Vec<_> = rows.iter().flat_map(|row| &row.samples).copied().collect();
        let indices: Vec<u64> = samples.iter().map(|sample| sample.index).collect();
        let loaded = load(dataset, &indices)?;
        let batch = match row_length {
            None => Self::collate(&loaded, options)?,
            Some(row_length) => {
                let before = rows.iter().scan(0, |before, row| {
                    *before += row.samples.len();
                    Some(*before - row.samples.len()..*before)
                });
                let packed = before.map(Iterator::collect).collect();
                Self::merged(&loaded, options, |sequences| merge_rows(sequences, packed, options, row_length))?
            }
        };
        Ok(Some(Self {
            samples: indices,
            positions: samples.iter().map(|sample| sample.position).collect(),
            left_out: rows.iter().map(|row| row.left_out).sum(),
            ..batch
        }))
    }

    /// Loads the microbatch of the rows `numbers` of a stream. A pure function, so that a [`Loader`](crate::Loader) can call
    /// it from any thread.
    ///
    /// # Errors
    /// Returns the errors of [`Self::from_rows`] and of the stream, and [`DataError::EmptyBatch`] without rows.
    pub fn of_stream(
        dataset: &dyn Dataset,
        stream: &dyn RowStream,
        options: &MergeOptions,
        numbers: Range<u64>,
    ) -> Result<Self, DataError> {
        let rows: Vec<Row> = numbers.filter_map(|row| stream.row(row).transpose()).collect::<Result<_, _>>()?;
        Self::from_rows(dataset, &rows, options, stream.row_length())?.ok_or(DataError::EmptyBatch)
    }

    /// Loads the `n`-th microbatch of a rank, counted from `consumed_samples`. A pure function, so that a
    /// [`Loader`](crate::Loader) can call it from any thread.
    ///
    /// # Errors
    /// Returns the errors of [`Self::from_indices`], and [`DataError::EmptyBatch`] if the microbatch size is 0.
    pub fn microbatch(
        dataset: &dyn Dataset,
        order: &dyn SampleOrder,
        sampler: &BatchSampler,
        options: &MergeOptions,
        consumed_samples: u64,
        n: u64,
    ) -> Result<Self, DataError> {
        let positions = sampler.positions(consumed_samples, n);
        let indices: Vec<_> = positions.clone().map(|position| order.index(position)).collect();
        let batch = Self::from_indices(dataset, &indices, options)?.ok_or(DataError::EmptyBatch)?;
        Ok(Self {
            positions: positions.collect(),
            ..batch
        })
    }
}

/// Loads samples.
fn load(dataset: &dyn Dataset, indices: &[u64]) -> Result<Vec<Sample>, DataError> {
    let load = |index: &u64| {
        let sample = dataset.get(*index as usize);
        sample.map_err(|error| error.of_sample(|| dataset.name(*index as usize)))
    };
    indices.iter().map(load).collect()
}
