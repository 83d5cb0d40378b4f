//! Mock dataset: random samples of a given shape, without files, network or tokenizer.

use crate::{
    error::DataError,
    random::Random,
    sample::{Dataset, IGNORE_INDEX, IMAGE_TOKEN_INDEX, Pixels, Sample},
};

/// Settings of a [`MockDataset`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MockConfig {
    /// Exact length of a sample after the merge.
    pub seq_length: usize,
    /// Number of positions per image.
    pub image_seq_len: usize,
    /// Number of images per sample.
    pub images_per_sample: usize,
    /// Token ids are drawn from `0..vocab_size`.
    pub vocab_size: u64,
    /// Height of an image, in pixels.
    pub image_height: usize,
    /// Width of an image, in pixels.
    pub image_width: usize,
    /// Number of samples in the dataset.
    pub num_samples: usize,
    /// Seed: a sample is a function of this seed and its index.
    pub seed: u64,
}

impl Default for MockConfig {
    /// Settings of NeMo's `MockDataModule` for LLaVA-1.5-7B.
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

/// Dataset whose samples are a function of (seed, index).
///
/// As in NeMo, tokens are uniform, every text token is a label, the first image is at token 2, and pixels are uniform in
/// `[0, 1)`. The numbers come from our own generator, not from NumPy's.
#[derive(Clone, Debug)]
pub struct MockDataset {
    config: MockConfig,
    num_tokens: usize,
    phase: Phase,
}

/// Use of the samples.
#[derive(Clone, Copy, Debug)]
enum Phase {
    Training,
    Validation,
}

impl MockDataset {
    /// Creates a dataset of training samples.
    ///
    /// # Errors
    /// Returns an error if the images leave no room for text in `seq_length`, or if `vocab_size` is 0.
    pub fn new(config: MockConfig) -> Result<Self, DataError> {
        Self::with_phase(config, Phase::Training)
    }

    /// Creates a dataset of `num_val_samples` validation samples; `config.num_samples` is ignored. The samples have the
    /// same shape as those of [`Self::new`] but different contents, because they use separate random streams.
    ///
    /// # Errors
    /// Returns the errors of [`Self::new`].
    pub fn validation(config: MockConfig, num_val_samples: usize) -> Result<Self, DataError> {
        let num_samples = num_val_samples;
        Self::with_phase(MockConfig { num_samples, ..config }, Phase::Validation)
    }

    fn with_phase(config: MockConfig, phase: Phase) -> Result<Self, DataError> {
        let MockConfig {
            seq_length,
            image_seq_len,
            images_per_sample,
            vocab_size,
            ..
        } = config;
        let image_positions = image_seq_len * images_per_sample;
        // Inputs are one token shorter than the sample, and each placeholder becomes `image_seq_len` positions.
        let num_tokens = (seq_length + 1 + images_per_sample).checked_sub(image_positions);
        let num_tokens = num_tokens.filter(|&tokens| tokens > FIRST_IMAGE + images_per_sample + 1);
        match num_tokens {
            Some(num_tokens) if vocab_size > 0 => Ok(Self { config, num_tokens, phase }),
            Some(_) => Err(DataError::Mock(
                "vocab_size is 0: set it to the size of the model's vocabulary".to_owned(),
            )),
            None => Err(DataError::Mock(format!(
                "seq_length {seq_length} has no room for text beside {images_per_sample} image(s) of {image_seq_len} \
                 positions: set it to {} or more",
                image_positions + FIRST_IMAGE + 1
            ))),
        }
    }

    /// Returns the settings.
    #[must_use]
    pub fn config(&self) -> &MockConfig {
        &self.config
    }

    /// Returns the sample at `index`. `image` makes each image from its own random stream.
    fn sample(&self, index: usize, image: impl Fn(Random) -> Pixels) -> Result<Sample, DataError> {
        if index >= self.len() {
            return Err(DataError::Index { index, len: self.len() });
        }
        let MockConfig {
            images_per_sample,
            vocab_size,
            seed,
            ..
        } = self.config;
        // Stream 0 holds the tokens, each stream from 1 on holds one image.
        let stream = |number: u64| match self.phase {
            Phase::Training => Random::new(&[seed, index as u64, number]),
            Phase::Validation => Random::new(&[seed, index as u64, number, VALIDATION]),
        };
        let tokens = stream(0);
        let placeholders = FIRST_IMAGE..FIRST_IMAGE + images_per_sample;
        let ids: Vec<i64> = (0..self.num_tokens)
            .map(|i| {
                if placeholders.contains(&i) {
                    IMAGE_TOKEN_INDEX
                } else {
                    tokens.below(i as u64, vocab_size) as i64
                }
            })
            .collect();
        let labels = ids
            .iter()
            .map(|&id| if id == IMAGE_TOKEN_INDEX { IGNORE_INDEX } else { id })
            .collect();
        let images = (1..=images_per_sample as u64).map(|number| image(stream(number))).collect();
        Ok(Sample {
            name: self.name(index),
            ids,
            labels,
            images,
        })
    }

    fn image(&self, random: Random) -> Pixels {
        let MockConfig {
            image_height: height,
            image_width: width,
            ..
        } = self.config;
        let chw = (0..3 * height * width).map(|i| random.unit(i as u64)).collect();
        Pixels { height, width, chw }
    }
}

/// Token position of the first image, as in NeMo.
const FIRST_IMAGE: usize = 2;

/// Last word of the random key of a validation sample.
const VALIDATION: u64 = u64::from_be_bytes(*b"mock-val");

impl Dataset for MockDataset {
    fn len(&self) -> usize {
        self.config.num_samples
    }

    fn get(&self, index: usize) -> Result<Sample, DataError> {
        self.sample(index, |random| self.image(random))
    }

    fn get_without_pixels(&self, index: usize) -> Result<Sample, DataError> {
        let MockConfig {
            image_height, image_width, ..
        } = self.config;
        self.sample(index, |_| Pixels::empty(image_height, image_width))
    }

    fn name(&self, index: usize) -> String {
        match self.phase {
            _ if index >= self.len() => DataError::Index { index, len: self.len() }.to_string(),
            Phase::Training => format!("mock#{index}"),
            Phase::Validation => format!("mock validation#{index}"),
        }
    }
}
