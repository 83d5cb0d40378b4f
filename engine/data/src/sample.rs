//! One sample, and the door through which samples are had.

use std::sync::Arc;

use crate::{error::DataError, merge::Row};

/// Label of a position that is not trained (PyTorch's `ignore_index`).
pub const IGNORE: i64 = -100;

/// Token id that stands for one picture until the merge (LLaVA's `IMAGE_TOKEN_INDEX`).
pub const IMAGE: i64 = -200;

/// A finite, random-access source of samples. Loader threads share it.
pub trait Dataset: Send + Sync {
    /// How many samples there are.
    fn len(&self) -> usize;

    /// Whether there is nothing to train on.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The sample at `index`. The same index gives the same sample, whoever asks and whenever.
    ///
    /// # Errors
    /// When a picture cannot be decoded or `index >= len()`.
    fn get(&self, index: usize) -> Result<Sample, DataError>;

    /// The sample at `index` without pixels, for whoever does not look at its pictures: each is there, and empty. Whether
    /// a picture can be decoded does not show.
    ///
    /// A dataset that can do without decoding says so here; otherwise the pixels of [`Self::get`] are dropped.
    ///
    /// # Errors
    /// As [`Self::get`], but for pictures that were not decoded.
    fn get_without_pixels(&self, index: usize) -> Result<Sample, DataError> {
        let mut sample = self.get(index)?;
        sample.pictures.iter_mut().for_each(|picture| picture.chw = Vec::new());
        Ok(sample)
    }

    /// [`Sample::name`] of the sample at `index`, without decoding anything; says so where there is no such sample.
    fn name(&self, index: usize) -> String;
}

/// One conversation, tokenized, with its pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Where it came from (`file#record (id)`), for messages.
    pub name: String,
    /// Token ids, [`IMAGE`] once per picture. Shape `[t]`.
    pub ids: Vec<i64>,
    /// The token itself where it is to be learnt, else [`IGNORE`]; *not* shifted. Shape `[t]`.
    pub labels: Vec<i64>,
    /// One per [`IMAGE`], in order.
    pub pictures: Vec<Pixels>,
}

impl Sample {
    /// Inputs and targets: `ids[..t-1]` and `labels[1..]`, so that `labels[i]` is the target of position `i`.
    #[must_use]
    pub fn row(&self) -> Row<'_> {
        let t = self.ids.len();
        Row {
            name: &self.name,
            ids: &self.ids[..t.saturating_sub(1)],
            labels: self.labels.get(1..).unwrap_or_default(),
            images: self.pictures.len(),
        }
    }

    /// How many tokens are to be learnt, before any truncation.
    #[must_use]
    pub fn labelled(&self) -> usize {
        self.labels.iter().skip(1).filter(|&&label| label >= 0).count()
    }
}

/// A picture as the vision tower takes it: normalized, channels first.
#[derive(Clone, Debug, PartialEq)]
pub struct Pixels {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Red plane, green plane, blue plane. Shape `[3, height, width]`; empty where the pixels were left out.
    pub chw: Vec<f32>,
}

impl Pixels {
    /// A picture that nobody looks at.
    #[must_use]
    pub fn left_out(height: usize, width: usize) -> Self {
        let chw = Vec::new();
        Self { height, width, chw }
    }
}

/// Another dataset without its pixels: the same samples, positions and numbers of pictures. For ranks that hold no
/// vision encoder.
#[derive(Clone)]
pub struct WithoutPixels(pub Arc<dyn Dataset>);

impl Dataset for WithoutPixels {
    fn len(&self) -> usize {
        self.0.len()
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
}
