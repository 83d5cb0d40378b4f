//! Where samples come from.

use crate::custom_data::CustomData;
use crate::validate::{Problem, Validate, nonzero};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The data module of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub enum Data {
    /// Random tokens and pictures; needs no file, no network, no tokenizer.
    #[serde(rename = "vlm.MockDataModule")]
    Mock(MockDataModule),
    /// A LLaVA-JSON file that is read as a whole.
    #[serde(rename = "vlm.NevaPreloadedDataModule")]
    Preloaded(NevaPreloadedDataModule),
    /// A type of the rank program's own, registered under its `_target_`: `my_crate::MyData`.
    Custom(CustomData),
}

impl Data {
    /// Samples in one optimizer step, over all ranks.
    pub fn global_batch_size(&self) -> u64 {
        match self {
            Self::Mock(data) => data.global_batch_size,
            Self::Preloaded(data) => data.global_batch_size,
            Self::Custom(data) => data.batching().global_batch_size,
        }
    }

    /// Samples in one forward pass of one rank.
    pub fn micro_batch_size(&self) -> u64 {
        match self {
            Self::Mock(data) => data.micro_batch_size,
            Self::Preloaded(data) => data.micro_batch_size,
            Self::Custom(data) => data.batching().micro_batch_size,
        }
    }

    /// Longest combined sequence (text and picture positions).
    pub fn seq_length(&self) -> usize {
        match self {
            Self::Mock(data) => data.seq_length,
            Self::Preloaded(data) => data.seq_length,
            Self::Custom(data) => data.batching().seq_length,
        }
    }

    /// Whether samples of a forward pass share rows.
    pub fn use_packed_sequence(&self) -> bool {
        match self {
            Self::Mock(data) => data.use_packed_sequence,
            Self::Preloaded(data) => data.use_packed_sequence,
            Self::Custom(data) => data.batching().use_packed_sequence,
        }
    }

    /// Threads that prepare samples on each rank; 0 prepares them inline.
    pub fn num_workers(&self) -> usize {
        match self {
            Self::Mock(data) => data.num_workers,
            Self::Preloaded(data) => data.num_workers,
            Self::Custom(data) => data.batching().num_workers,
        }
    }

    /// Whether each epoch has an order of its own.
    pub fn shuffle(&self) -> bool {
        match self {
            Self::Mock(_) => true,
            Self::Preloaded(data) => data.shuffle,
            Self::Custom(data) => data.batching().shuffle,
        }
    }

    /// The data without what changes no sample of it: how it is cut into micro-batches, and who prepares it.
    pub fn stream(&self) -> Self {
        let mut data = self.clone();
        match &mut data {
            Self::Mock(data) => {
                data.seq_length = data.sample_length();
                (data.micro_batch_size, data.use_packed_sequence, data.num_workers) = (1, false, 0);
            }
            Self::Preloaded(data) => (data.micro_batch_size, data.use_packed_sequence, data.num_workers) = (1, false, 0),
            Self::Custom(data) => data.0.extend([
                ("micro_batch_size".into(), 1.into()),
                ("use_packed_sequence".into(), false.into()),
                ("num_workers".into(), 0.into()),
            ]),
        }
        data
    }

    /// Seed of the sample order.
    pub fn seed(&self) -> u64 {
        match self {
            Self::Mock(data) => data.seed,
            Self::Preloaded(data) => data.seed,
            Self::Custom(data) => data.batching().seed,
        }
    }
}

/// Random samples, a function of (seed, index) alone: NeMo's `vlm.MockDataModule`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MockDataModule {
    /// Combined length of every sample; of all samples of a forward pass together with `use_packed_sequence`.
    pub seq_length: usize,
    /// Samples in one optimizer step, over all ranks.
    pub global_batch_size: u64,
    /// Samples in one forward pass of one rank.
    pub micro_batch_size: u64,
    /// Samples of a forward pass share rows of up to `seq_length` positions, each seeing itself alone.
    pub use_packed_sequence: bool,
    /// Threads that prepare samples on each rank; 0 prepares them inline.
    pub num_workers: usize,
    /// Number of different samples.
    pub num_train_samples: u64,
    /// Number of different samples of the validation, none of which is trained on.
    pub num_val_samples: u64,
    /// Seed of samples and order.
    pub seed: u64,
}

impl Default for MockDataModule {
    fn default() -> Self {
        Self {
            seq_length: 4096,
            global_batch_size: 128,
            micro_batch_size: 2,
            use_packed_sequence: false,
            num_workers: 4,
            num_train_samples: 10_000_000,
            num_val_samples: 10_000_000,
            seed: 42,
        }
    }
}

impl MockDataModule {
    /// Combined length of one sample: those of a forward pass fill a row together when they are packed, as NeMo's do.
    pub fn sample_length(&self) -> usize {
        self.seq_length / self.samples_of_a_row()
    }

    /// Samples that fill a row together.
    pub(crate) fn samples_of_a_row(&self) -> usize {
        let samples = if self.use_packed_sequence {
            self.micro_batch_size.max(1)
        } else {
            1
        };
        usize::try_from(samples).unwrap_or(usize::MAX)
    }
}

/// LLaVA-JSON data: NeMo's `vlm.NevaPreloadedDataModule`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NevaPreloadedDataModule {
    /// LLaVA-JSON files, concatenated.
    #[schemars(with = "OneOrMany")]
    #[serde(deserialize_with = "one_or_many")]
    pub paths: Vec<PathBuf>,
    /// LLaVA-JSON files of the validation.
    #[schemars(with = "OneOrMany")]
    #[serde(deserialize_with = "one_or_many")]
    pub val_paths: Vec<PathBuf>,
    /// In place of `val_paths`: the part of `paths` that is set aside for validation, chosen by `seed`.
    pub val_split: f64,
    /// Pictures and conversation template.
    pub data_config: ImageDataConfig,
    /// Longest combined sequence; longer samples are cut at the right.
    pub seq_length: usize,
    /// Samples in one optimizer step, over all ranks.
    pub global_batch_size: u64,
    /// Samples in one forward pass of one rank.
    pub micro_batch_size: u64,
    /// Samples of a forward pass share rows of up to `seq_length` positions, each seeing itself alone.
    pub use_packed_sequence: bool,
    /// Tokenizer: a folder or file (`tokenizer.json`), or `builtin:NAME`; `null` takes the one beside the restored model.
    pub tokenizer: Option<String>,
    /// Image processor: a folder or file (`preprocessor_config.json`); `null` takes CLIP's values at the model's image size.
    pub image_processor: Option<PathBuf>,
    /// Threads that prepare samples on each rank; 0 prepares them inline.
    pub num_workers: usize,
    /// Puts the tokenizer's BOS in front, as LLaVA and Hugging Face do (NeMo does not). `null` is true, and false
    /// under `nemo_compat`.
    pub add_bos: Option<bool>,
    /// Each epoch has an order of its own; `false` reads the data in its own order, epoch after epoch.
    pub shuffle: bool,
    /// Seed of the sample order.
    pub seed: u64,
}

impl Default for NevaPreloadedDataModule {
    fn default() -> Self {
        Self {
            paths: Vec::new(),
            val_paths: Vec::new(),
            val_split: 0.0,
            data_config: ImageDataConfig::default(),
            seq_length: 2048,
            global_batch_size: 8,
            micro_batch_size: 4,
            use_packed_sequence: false,
            tokenizer: None,
            image_processor: None,
            num_workers: 8,
            add_bos: None,
            shuffle: true,
            seed: 1234,
        }
    }
}

/// One path or a list of them.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only describes the JSON schema of `paths`")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
    struct Paths;
    impl<'de> serde::de::Visitor<'de> for Paths {
        type Value = Vec<PathBuf>;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a path or a list of paths")
        }
        fn visit_str<E>(self, path: &str) -> Result<Self::Value, E> {
            Ok(vec![PathBuf::from(path)])
        }
        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut paths = Vec::new();
            while let Some(path) = seq.next_element::<PathBuf>()? {
                paths.push(path);
            }
            Ok(paths)
        }
    }
    deserializer.deserialize_any(Paths)
}

/// How pictures and conversations become tensors: NeMo's `vlm.ImageDataConfig`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ImageDataConfig {
    /// Folder that the records' picture paths are relative to; `null` means the folder of the JSON file.
    pub image_folder: Option<PathBuf>,
    /// Conversation template, for example `v1` or `plain`.
    pub conv_template: String,
    /// How a picture becomes a square.
    pub image_process_mode: ImageProcessMode,
    /// Where `<image>` stands in the first question.
    pub image_token_position: ImageTokenPosition,
}

impl Default for ImageDataConfig {
    fn default() -> Self {
        Self {
            image_folder: None,
            conv_template: "v1".into(),
            image_process_mode: ImageProcessMode::Pad,
            image_token_position: ImageTokenPosition::Keep,
        }
    }
}

/// How a picture becomes a square.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ImageProcessMode {
    /// Expands to a square with the mean colour, then resizes (LLaVA-1.5's way).
    Pad,
    /// Keeps the aspect ratio.
    Keep,
    /// Resizes the shorter edge and crops the centre.
    Square,
}

/// Where `<image>` stands in a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ImageTokenPosition {
    /// Where the record has it (NeMo).
    Keep,
    /// In front of the question, followed by a new line (LLaVA).
    Front,
}

/// Positions of text that a mock sample has at least: two in front of its picture, and one behind.
pub(crate) const MOCK_TEXT: usize = 3;

/// More samples than an optimizer step has, of which a rank keeps a list.
pub(crate) const MOST_SAMPLES: u64 = 1 << 32;

/// More positions than a forward pass has: no machine's memory holds eight bytes for each.
const MOST_POSITIONS: u128 = 1 << 40;

impl Data {
    /// Numbers that are written by mistake.
    fn validate_size(&self, path: &str, problems: &mut Vec<Problem>) {
        let (samples, length) = (self.micro_batch_size(), self.seq_length());
        if u128::from(samples) * length as u128 > MOST_POSITIONS {
            let setting = if length as u128 * length as u128 > MOST_POSITIONS {
                "seq_length"
            } else {
                "micro_batch_size"
            };
            let message = format!("micro_batch_size x seq_length = {samples} x {length} are more positions than a forward pass can have");
            problems.push(Problem::error(format!("{path}.{setting}"), message));
        }
        if self.global_batch_size() > MOST_SAMPLES {
            let message = format!(
                "`global_batch_size` {} is more samples than a step can have",
                self.global_batch_size()
            );
            problems.push(Problem::error(format!("{path}.global_batch_size"), message));
        }
    }
}

impl Validate for Data {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        nonzero(
            path,
            problems,
            &[
                ("global_batch_size", self.global_batch_size()),
                ("micro_batch_size", self.micro_batch_size()),
                ("seq_length", self.seq_length() as u64),
            ],
        );
        self.validate_size(path, problems);
        match self {
            Self::Mock(data) => nonzero(path, problems, &[("num_train_samples", data.num_train_samples)]),
            Self::Preloaded(data) => data.validate(path, problems),
            Self::Custom(data) => data.validate(path, problems),
        }
    }
}

impl Validate for NevaPreloadedDataModule {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        if self.paths.is_empty() {
            problems.push(Problem::error(format!("{path}.paths"), "no dataset is named").help("set `paths` to a LLaVA-JSON file"));
        }
        let at = format!("{path}.val_split");
        if !(0.0..1.0).contains(&self.val_split) {
            let message = format!("`val_split` is {:?}, it must be at least 0 and below 1", self.val_split);
            problems.push(Problem::error(at, message).help("0.05 sets 5 % of the samples aside"));
        } else if self.val_split > 0.0 && !self.val_paths.is_empty() {
            let message = format!(
                "`val_split` is {:?}, but `val_paths` names the validation data already",
                self.val_split
            );
            problems.push(Problem::error(at, message).help("set `val_split` to 0, or `val_paths` to []"));
        }
    }
}
