//! An Energon dataset as samples of this crate.

use std::sync::Arc;

use super::{encoder::Encoder, leaf::Leaf, mixture::Mixture, sample::EnergonSample, task_encoder::TaskEncoder};
use crate::{
    error::DataError,
    image::{ImageProcessor, RgbImage, repeat_placeholders},
    prompt::Prompt,
    sample::{Dataset, Pixels, Sample},
    tokenizer::{Encoded, Tokenizer},
};

/// The samples of all datasets of a mixture, one dataset after the other.
pub struct EnergonDataset {
    leaves: Vec<Leaf>,
    /// Index of the first sample of each dataset.
    firsts: Vec<u64>,
    len: u64,
    encoder: Encoder,
    tokenizer: Arc<Tokenizer>,
    processor: ImageProcessor,
    apply_exif: bool,
    /// Reading without pixels decodes images, too, so that all ranks find the same ones broken.
    decodes_always: bool,
}

/// Tools of a dataset.
pub(super) struct Tools {
    pub(super) encoder: Encoder,
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) processor: ImageProcessor,
    pub(super) apply_exif: bool,
    pub(super) decodes_always: bool,
}

/// Text and tokens of a sample.
pub(crate) struct Encoding {
    pub(crate) sample: EnergonSample,
    pub(crate) prompt: Prompt,
    pub(crate) encoded: Encoded,
    /// Parts of its images, in the order of their places.
    pub(crate) images: Vec<String>,
}

impl EnergonDataset {
    pub(super) fn new(mixture: Mixture, tools: Tools) -> Self {
        let leaves: Vec<Leaf> = mixture.leaves.into_iter().map(|(leaf, _)| leaf).collect();
        let mut len = 0;
        let firsts = leaves.iter().map(|leaf| {
            len += leaf.len();
            len - leaf.len()
        });
        let firsts = firsts.collect();
        Self {
            leaves,
            firsts,
            len,
            encoder: tools.encoder,
            tokenizer: tools.tokenizer,
            processor: tools.processor,
            apply_exif: tools.apply_exif,
            decodes_always: tools.decodes_always,
        }
    }

    /// Returns the same samples, encoded by `encoder`, if there is one.
    pub(super) fn encoded_by(mut self, encoder: Option<Arc<dyn TaskEncoder>>) -> Self {
        self.encoder.custom = encoder;
        self
    }

    /// Returns the index of the first sample of each dataset that has any.
    pub(super) fn first_samples(&self) -> Vec<usize> {
        let firsts = self.leaves.iter().zip(&self.firsts);
        firsts
            .filter(|(leaf, _)| leaf.len() > 0)
            .map(|(_, first)| *first as usize)
            .collect()
    }

    /// Returns the indices of each dataset's samples.
    pub(super) fn ranges(&self) -> Vec<std::ops::Range<u64>> {
        let firsts = self.leaves.iter().zip(&self.firsts);
        firsts.map(|(leaf, first)| *first..first + leaf.len()).collect()
    }

    fn place(&self, index: usize) -> Result<(&Leaf, u64), DataError> {
        let wanted = index as u64;
        // Of empty datasets with the same first index, the last one is not empty.
        let at = self.firsts.partition_point(|first| *first <= wanted).checked_sub(1);
        match at
            .filter(|_| wanted < self.len)
            .and_then(|at| Some((self.leaves.get(at)?, self.firsts.get(at)?)))
        {
            Some((leaf, first)) => Ok((leaf, wanted - first)),
            None => Err(DataError::Index {
                index,
                len: self.len as usize,
            }),
        }
    }

    /// Returns the sample at `index` with the fields of its type, before it is encoded.
    ///
    /// # Errors
    /// The sample is missing or invalid.
    pub fn energon_sample(&self, index: usize) -> Result<EnergonSample, DataError> {
        let (leaf, index) = self.place(index)?;
        leaf.sample(index)
    }

    /// Decodes an image of a sample.
    ///
    /// # Errors
    /// There is no such part, or it is no image.
    pub fn image(&self, sample: &EnergonSample, part: &str) -> Result<RgbImage, DataError> {
        let bytes = sample.raw.image(part)?;
        let name = format!("{}, {part}", sample.raw.name());
        match self.apply_exif {
            true => RgbImage::decode_upright(&bytes, &name),
            false => RgbImage::decode(&bytes, &name),
        }
    }

    /// Returns text and tokens of the sample at `index`, and the parts of its images.
    ///
    /// # Errors
    /// The sample is missing or invalid.
    pub(crate) fn encoding(&self, index: usize) -> Result<Encoding, DataError> {
        let sample = self.energon_sample(index)?;
        let name = || sample.raw.name().to_owned();
        let (prompt, images) = self.encoder.encode(&sample).map_err(|error| error.of_sample(name))?;
        let encoded = self.tokenizer.encode_prompt(&prompt).map_err(|error| error.of_sample(name))?;
        Ok(Encoding {
            sample,
            prompt,
            encoded,
            images,
        })
    }

    /// Returns the images that the vision encoder gets of one image, before normalization.
    pub(crate) fn tiles(&self, image: &RgbImage) -> Vec<RgbImage> {
        self.processor.tiles(image)
    }

    /// Returns the text of token ids, special tokens included.
    pub(crate) fn decode_tokens(&self, ids: &[i64]) -> String {
        self.tokenizer.decode(ids, false).unwrap_or_default()
    }

    /// Encodes the sample at `index`. `load` turns each image into the inputs of the vision encoder.
    fn encoded(&self, index: usize, load: impl Fn(&EnergonSample, &str) -> Result<Vec<Pixels>, DataError>) -> Result<Sample, DataError> {
        let Encoding {
            sample,
            mut encoded,
            images,
            ..
        } = self.encoding(index)?;
        let tiles = images.iter().map(|part| load(&sample, part)).collect::<Result<Vec<_>, _>>()?;
        let counts: Vec<usize> = tiles.iter().map(Vec::len).collect();
        repeat_placeholders(&mut encoded.ids, &mut encoded.labels, &counts);
        Ok(Sample {
            name: sample.raw.name().to_owned(),
            ids: encoded.ids,
            labels: encoded.labels,
            images: tiles.into_iter().flatten().collect(),
        })
    }
}

impl Dataset for EnergonDataset {
    fn len(&self) -> usize {
        self.len as usize
    }

    fn get(&self, index: usize) -> Result<Sample, DataError> {
        self.encoded(index, |sample, part| Ok(self.processor.process_tiles(&self.image(sample, part)?)))
    }

    fn get_without_pixels(&self, index: usize) -> Result<Sample, DataError> {
        let (height, width) = self.processor.output_size().unwrap_or_default();
        self.encoded(index, |sample, part| {
            let is_decoded = self.decodes_always || self.processor.tiling.is_some();
            let tiles = match is_decoded.then(|| self.image(sample, part)).transpose()? {
                Some(image) if self.processor.tiling.is_some() => self.processor.num_tiles(image.width, image.height),
                _ if sample.raw.contains(part) => 1,
                _ => return Err(sample.raw.missing(part)),
            };
            Ok(vec![Pixels::empty(height, width); tiles])
        })
    }

    fn name(&self, index: usize) -> String {
        match self.place(index) {
            Ok((leaf, index)) => leaf.name(index),
            Err(error) => error.to_string(),
        }
    }

    fn identity(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        self.leaves.iter().for_each(|leaf| leaf.identify(&mut hasher));
        hasher.finalize().to_hex().to_string()
    }
}
