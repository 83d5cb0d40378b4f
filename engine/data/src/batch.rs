//! The input of one forward pass: several samples, collated.

use crate::{
    error::DataError,
    merge::{MergeOptions, MergedBatch, merge},
    order::{BatchSampler, SampleOrder},
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
}

impl Batch {
    /// Collates samples into one batch.
    ///
    /// # Errors
    /// Returns the errors of [`merge`], and [`DataError::ImageSize`] if the images differ in size.
    pub fn collate(samples: &[Sample], options: &MergeOptions) -> Result<Self, DataError> {
        let sequences: Vec<Sequence<'_>> = samples.iter().map(Sample::sequence).collect();
        let tokens = merge(&sequences, options)?;
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
        let samples = indices
            .iter()
            .map(|&index| {
                let sample = dataset.get(index as usize);
                sample.map_err(|error| error.of_sample(|| dataset.name(index as usize)))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let batch = Self::collate(&samples, options)?;
        Ok(Some(Self {
            samples: indices.to_vec(),
            ..batch
        }))
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
