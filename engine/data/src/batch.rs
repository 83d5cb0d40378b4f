//! Samples side by side: what one forward pass takes.

use crate::{
    error::DataError,
    merge::{MergeOptions, MergedBatch, Row, merge},
    order::{BatchSlice, Order},
    sample::{Dataset, Sample},
};

/// Token rows, and the pictures that are still in them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Inputs, targets and where the pictures lie.
    pub tokens: MergedBatch,
    /// The pictures of `tokens.images`, in that order. Shape [`Self::pixel_shape`].
    pub pixels: Vec<f32>,
    /// `[pictures, 3, height, width]`; all zero in a batch without pixels, be it that there are no pictures or that they
    /// were left out ([`WithoutPixels`](crate::WithoutPixels)).
    pub pixel_shape: [usize; 4],
    /// Dataset index of each sample, where the samples come from a dataset; else empty.
    pub samples: Vec<u64>,
}

impl Batch {
    /// Merges samples.
    ///
    /// # Errors
    /// Those of [`merge`], and when the pictures differ in size.
    pub fn collate(samples: &[Sample], options: &MergeOptions) -> Result<Self, DataError> {
        let rows: Vec<Row<'_>> = samples.iter().map(Sample::row).collect();
        let tokens = merge(&rows, options)?;
        let all: Vec<_> = samples
            .iter()
            .flat_map(|sample| sample.pictures.iter().map(move |p| (sample, p)))
            .collect();
        let kept = tokens.images.iter().map(|span| all[span.picture]);
        let Some((_, first)) = kept.clone().next() else {
            return Ok(Self { tokens, ..Self::default() });
        };
        let mut pixels = Vec::with_capacity(tokens.images.len() * first.chw.len());
        for (sample, picture) in kept {
            if (picture.height, picture.width) != (first.height, first.width) {
                return Err(DataError::PictureSize {
                    sample: sample.name.clone(),
                    size: (picture.height, picture.width),
                    expected: (first.height, first.width),
                });
            }
            pixels.extend_from_slice(&picture.chw);
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
        })
    }

    /// The samples at `indices`, or `None` where there are none.
    ///
    /// # Errors
    /// Those of [`Dataset::get`] and [`Self::collate`].
    pub fn of(dataset: &dyn Dataset, indices: &[u64], options: &MergeOptions) -> Result<Option<Self>, DataError> {
        if indices.is_empty() {
            return Ok(None);
        }
        let samples = indices
            .iter()
            .map(|&index| dataset.get(index as usize))
            .collect::<Result<Vec<_>, _>>()?;
        let batch = Self::collate(&samples, options)?;
        Ok(Some(Self {
            samples: indices.to_vec(),
            ..batch
        }))
    }

    /// The `n`-th micro-batch of a rank, counted from `consumed_samples`: a pure function, fit for a
    /// [`Loader`](crate::Loader).
    ///
    /// # Errors
    /// Those of [`Self::of`], and when the micro-batch size is 0.
    pub fn microbatch(
        dataset: &dyn Dataset,
        order: &Order,
        slice: &BatchSlice,
        options: &MergeOptions,
        consumed_samples: u64,
        n: u64,
    ) -> Result<Self, DataError> {
        let indices = slice.microbatch(order, consumed_samples, n);
        Self::of(dataset, &indices, options)?.ok_or(DataError::EmptyBatch)
    }
}
