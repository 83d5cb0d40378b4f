//! The sample, and the `Dataset` trait.

use std::sync::Arc;

use crate::{
    error::DataError,
    order::{Order, SampleOrder},
    sequence::Sequence,
};

/// Label of a position that the loss ignores (PyTorch's `ignore_index`, LLaVA's `IGNORE_INDEX`).
pub const IGNORE_INDEX: i64 = -100;

/// Token id of an image placeholder before the merge (LLaVA's `IMAGE_TOKEN_INDEX`).
pub const IMAGE_TOKEN_INDEX: i64 = -200;

/// A finite dataset with random access. Loader threads share it.
pub trait Dataset: Send + Sync {
    /// Returns the number of samples.
    fn len(&self) -> usize;

    /// Returns whether there are no samples.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the sample at `index`: always the same sample for the same index.
    ///
    /// # Errors
    /// Returns an error if an image cannot be decoded or `index >= len()`.
    fn get(&self, index: usize) -> Result<Sample, DataError>;

    /// Returns the sample at `index` without pixels, for callers that do not use them: `images` has its usual length, and
    /// each image is empty. Images that cannot be decoded need not be reported.
    ///
    /// The default implementation drops the pixels of [`Self::get`]. Override it if the dataset can skip decoding.
    ///
    /// # Errors
    /// Returns the errors of [`Self::get`], except for images that were not decoded.
    fn get_without_pixels(&self, index: usize) -> Result<Sample, DataError> {
        let mut sample = self.get(index)?;
        sample.images.iter_mut().for_each(|image| image.chw = Vec::new());
        Ok(sample)
    }

    /// Returns [`Sample::name`] of the sample at `index` without decoding images. If there is no such sample, the text
    /// reports that.
    fn name(&self, index: usize) -> String;

    /// Returns a hash of what decides the samples, which the ranks of a run compare. Empty: they do not.
    fn identity(&self) -> String {
        String::new()
    }

    /// Returns the order in which training reads the samples: by default each one once in an epoch.
    fn order(&self, seed: u64, shuffle: bool) -> Arc<dyn SampleOrder> {
        let len = self.len() as u64;
        Arc::new(Order { seed, len, shuffle })
    }
}

/// One tokenized conversation with its images.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Origin of the sample (`file#record (id)`), for messages.
    pub name: String,
    /// Token ids, [`IMAGE_TOKEN_INDEX`] once per image. Shape `[t]`.
    pub ids: Vec<i64>,
    /// The token id where the token is a label, otherwise [`IGNORE_INDEX`]; *not* shifted. Shape `[t]`.
    pub labels: Vec<i64>,
    /// One per [`IMAGE_TOKEN_INDEX`], in order.
    pub images: Vec<Pixels>,
}

impl Sample {
    /// Returns inputs and targets: `ids[..t-1]` and `labels[1..]`, so that `labels[i]` is the target of position `i`.
    #[must_use]
    pub fn sequence(&self) -> Sequence<'_> {
        let t = self.ids.len();
        Sequence {
            name: &self.name,
            ids: &self.ids[..t.saturating_sub(1)],
            labels: self.labels.get(1..).unwrap_or_default(),
            num_images: self.images.len(),
        }
    }

    /// Returns the number of labels, before truncation.
    #[must_use]
    pub fn num_labels(&self) -> usize {
        self.labels.iter().skip(1).filter(|&&label| label >= 0).count()
    }
}

/// Pixel values of one image as the vision encoder takes them: normalized, channels first.
#[derive(Clone, Debug, PartialEq)]
pub struct Pixels {
    /// Height in pixels.
    pub height: usize,
    /// Width in pixels.
    pub width: usize,
    /// Red plane, green plane, blue plane. Shape `[3, height, width]`; empty if the pixels were skipped.
    pub chw: Vec<f32>,
}

impl Pixels {
    /// Creates an image of the given size without pixels.
    #[must_use]
    pub fn empty(height: usize, width: usize) -> Self {
        let chw = Vec::new();
        Self { height, width, chw }
    }
}

/// Wrapper of a dataset that skips pixels: same samples, positions and numbers of images. Ranks without a vision encoder
/// use it.
#[derive(Clone)]
pub struct WithoutPixels(pub Arc<dyn Dataset>);

impl Dataset for WithoutPixels {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn identity(&self) -> String {
        self.0.identity()
    }

    fn get(&self, index: usize) -> Result<Sample, DataError> {
        self.0.get_without_pixels(index)
    }

    fn get_without_pixels(&self, index: usize) -> Result<Sample, DataError> {
        self.0.get_without_pixels(index)
    }

    fn name(&self, index: usize) -> String {
        self.0.name(index)
    }

    fn order(&self, seed: u64, shuffle: bool) -> Arc<dyn SampleOrder> {
        self.0.order(seed, shuffle)
    }
}
