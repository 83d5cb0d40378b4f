//! Random samples of the right shape: no files, no network, no tokenizer.

use crate::{
    error::DataError,
    random::Random,
    sample::{Dataset, IGNORE, IMAGE, Pixels, Sample},
};

/// What a mock sample looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MockConfig {
    /// Length of a sample after the merge, exactly.
    pub seq_length: usize,
    /// Positions that one picture takes.
    pub image_seq_len: usize,
    /// Pictures per sample.
    pub images_per_sample: usize,
    /// Token ids are drawn from `0..vocab_size`.
    pub vocab_size: u64,
    /// Rows of a picture.
    pub image_height: usize,
    /// Columns of a picture.
    pub image_width: usize,
    /// Samples in the dataset.
    pub num_samples: usize,
    /// Together with a sample's index, names its contents.
    pub seed: u64,
}

impl Default for MockConfig {
    /// NeMo's `MockDataModule` for LLaVA-1.5-7B.
    fn default() -> Self {
        Self {
            seq_length: 2048,
            image_seq_len: 576,
            images_per_sample: 1,
            vocab_size: 32_000,
            image_height: 336,
            image_width: 336,
            num_samples: 10_000_000,
            seed: 42,
        }
    }
}

/// Samples that are a function of (seed, index).
///
/// As NeMo's: uniform tokens, every text token is to be learnt, the first picture stands at token 2, pixels are uniform
/// in `[0, 1)`. The numbers are our own generator's, not NumPy's.
#[derive(Clone, Debug)]
pub struct MockDataset {
    config: MockConfig,
    num_tokens: usize,
    part: Part,
}

/// What the samples are for.
#[derive(Clone, Copy, Debug)]
enum Part {
    Training,
    Validation,
}

impl MockDataset {
    /// Samples to train on.
    ///
    /// # Errors
    /// When the pictures leave no room for text in `seq_length`, or there is no vocabulary.
    pub fn new(config: MockConfig) -> Result<Self, DataError> {
        Self::with_part(config, Part::Training)
    }

    /// `num_val_samples` samples to validate on, in place of `config.num_samples`: alike in shape, and none of those
    /// that [`Self::new`] makes, for their numbers come from streams of their own.
    ///
    /// # Errors
    /// Those of [`Self::new`].
    pub fn validation(config: MockConfig, num_val_samples: usize) -> Result<Self, DataError> {
        let num_samples = num_val_samples;
        Self::with_part(MockConfig { num_samples, ..config }, Part::Validation)
    }

    fn with_part(config: MockConfig, part: Part) -> Result<Self, DataError> {
        let MockConfig {
            seq_length,
            image_seq_len,
            images_per_sample,
            vocab_size,
            ..
        } = config;
        let pictures = image_seq_len * images_per_sample;
        // Inputs are one token shorter than the sample, and each placeholder becomes `image_seq_len` positions.
        let num_tokens = (seq_length + 1 + images_per_sample).checked_sub(pictures);
        let num_tokens = num_tokens.filter(|&tokens| tokens > FIRST_PICTURE + images_per_sample + 1);
        match num_tokens {
            Some(num_tokens) if vocab_size > 0 => Ok(Self { config, num_tokens, part }),
            Some(_) => Err(DataError::Mock(
                "vocab_size is 0: give the size of the model's vocabulary".to_owned(),
            )),
            None => Err(DataError::Mock(format!(
                "seq_length {seq_length} has no room for text beside {images_per_sample} picture(s) of {image_seq_len} \
                 positions: give it {} or more",
                pictures + FIRST_PICTURE + 1
            ))),
        }
    }

    /// What the samples look like.
    #[must_use]
    pub fn config(&self) -> &MockConfig {
        &self.config
    }

    /// The sample at `index`, whose pictures `picture` makes of a random stream each.
    fn sample(&self, index: usize, picture: impl Fn(Random) -> Pixels) -> Result<Sample, DataError> {
        if index >= self.len() {
            return Err(DataError::Index { index, len: self.len() });
        }
        let MockConfig {
            images_per_sample,
            vocab_size,
            seed,
            ..
        } = self.config;
        // Stream 0 holds the tokens, stream 1 and on a picture each.
        let stream = |number: u64| match self.part {
            Part::Training => Random::of(&[seed, index as u64, number]),
            Part::Validation => Random::of(&[seed, index as u64, number, VALIDATION]),
        };
        let tokens = stream(0);
        let placeholders = FIRST_PICTURE..FIRST_PICTURE + images_per_sample;
        let ids: Vec<i64> = (0..self.num_tokens)
            .map(|i| {
                if placeholders.contains(&i) {
                    IMAGE
                } else {
                    tokens.below(i as u64, vocab_size) as i64
                }
            })
            .collect();
        let labels = ids.iter().map(|&id| if id == IMAGE { IGNORE } else { id }).collect();
        let pictures = (1..=images_per_sample as u64).map(|number| picture(stream(number))).collect();
        Ok(Sample {
            name: self.name(index),
            ids,
            labels,
            pictures,
        })
    }

    fn picture(&self, random: Random) -> Pixels {
        let MockConfig {
            image_height: height,
            image_width: width,
            ..
        } = self.config;
        let chw = (0..3 * height * width).map(|i| random.unit(i as u64)).collect();
        Pixels { height, width, chw }
    }
}

/// Token position of the first picture, as in NeMo.
const FIRST_PICTURE: usize = 2;

/// Last word of a validation sample's random key.
const VALIDATION: u64 = u64::from_be_bytes(*b"mock-val");

impl Dataset for MockDataset {
    fn len(&self) -> usize {
        self.config.num_samples
    }

    fn get(&self, index: usize) -> Result<Sample, DataError> {
        self.sample(index, |random| self.picture(random))
    }

    fn get_without_pixels(&self, index: usize) -> Result<Sample, DataError> {
        let MockConfig {
            image_height, image_width, ..
        } = self.config;
        self.sample(index, |_| Pixels::left_out(image_height, image_width))
    }

    fn name(&self, index: usize) -> String {
        match self.part {
            _ if index >= self.len() => DataError::Index { index, len: self.len() }.to_string(),
            Part::Training => format!("mock#{index}"),
            Part::Validation => format!("mock validation#{index}"),
        }
    }
}
