//! The built-in data modules.

use crate::conversation_template::ConversationTemplateConfig;
use crate::packing::{PackingOversize, PackingSettings};
use crate::validate::{Problem, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Microbatches that a worker prepares ahead, as PyTorch's.
pub(crate) const PREFETCH: usize = 2;

/// Random samples, a function of seed and index: NeMo's `vlm.MockDataModule`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MockDataModule {
    /// Combined length of every sample; with `use_packed_sequence`, of all samples of a forward pass together.
    pub seq_length: usize,
    /// Number of samples per optimizer step, over all ranks.
    pub global_batch_size: u64,
    /// Number of samples per forward pass of one rank.
    pub micro_batch_size: u64,
    /// Packs the samples of a forward pass into rows of up to `seq_length` positions; each attends to itself only.
    pub use_packed_sequence: bool,
    /// Number of threads that prepare samples on each rank; 0 prepares them inline.
    pub num_workers: usize,
    /// Number of training samples.
    pub num_train_samples: u64,
    /// Number of validation samples; none is a training sample.
    pub num_val_samples: u64,
    /// Seed of the samples and their order.
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
    /// Returns the combined length of one sample. Packed samples of a forward pass fill one row together, as NeMo's do.
    pub fn sample_length(&self) -> usize {
        self.seq_length / self.samples_per_row()
    }

    /// Returns the number of samples that fill one row.
    pub(crate) fn samples_per_row(&self) -> usize {
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
    /// Files of records, concatenated: `.jsonl` has one record a line, any other file is a JSON list.
    #[schemars(with = "OneOrMany")]
    #[serde(deserialize_with = "one_or_many")]
    pub paths: Vec<PathBuf>,
    /// Sampling probability of each of `paths`; they need not add up to 1. An epoch then has as many samples as the files
    /// together, of which a file with weight 0.3 gives 30 %. `null` reads every sample once in an epoch.
    pub weights: Option<Vec<f64>>,
    /// Files of records for validation.
    #[schemars(with = "OneOrMany")]
    #[serde(deserialize_with = "one_or_many")]
    pub val_paths: Vec<PathBuf>,
    /// Fraction of `paths` used for validation, chosen by `seed`; instead of `val_paths`.
    pub val_split: f64,
    /// Policy for broken samples: an invalid record, an image that is missing or cannot be decoded.
    pub on_error: OnError,
    /// Maximum number of broken samples that `on_error: skip` skips on a rank before the run fails; `null` means 100.
    pub max_skipped: Option<u64>,
    /// File with the records that are left out, written by `neva-run data check`.
    pub skip_list: Option<PathBuf>,
    /// Image processing and conversation template.
    pub data_config: ImageDataConfig,
    /// Maximum length of the combined text and image sequence; longer samples are truncated on the right.
    pub seq_length: usize,
    /// Number of samples per optimizer step, over all ranks.
    pub global_batch_size: u64,
    /// Number of samples per forward pass of one rank.
    pub micro_batch_size: u64,
    /// Packs the samples of a forward pass into rows of up to `seq_length` positions; each attends to itself only.
    pub use_packed_sequence: bool,
    /// Maximum length of a row of packed samples; `null`: `seq_length`. Each sample has at most `seq_length` positions.
    pub packed_sequence_size: Option<usize>,
    /// Number of samples that are packed together into rows, which then count in `micro_batch_size` and `global_batch_size` in
    /// place of samples; `null` packs no more than the samples of a forward pass.
    pub packing_buffer_size: Option<usize>,
    /// Policy for samples that are longer than `seq_length` or `packed_sequence_size`.
    pub packing_oversize: PackingOversize,
    /// File of rows that are packed ahead of time: `neva-run data pack` writes it, of `packing_buffer_size` samples at a time, or
    /// of all together.
    pub packed_set: Option<PathBuf>,
    /// Puts samples with and without an image into batches of their own, sorted by length: LLaVA's
    /// `group_by_modality_length`.
    pub group_by_modality_length: bool,
    /// Number of microbatches that each worker prepares ahead, and works on one more.
    pub prefetch_factor: usize,
    /// Tokenizer: a folder or file (`tokenizer.json`), or `builtin:NAME`; `null` uses the one of the restored model.
    pub tokenizer: Option<String>,
    /// Image processor: a folder or file (`preprocessor_config.json`, `processor_config.json`); `null` uses the one of the
    /// model's weights, or the values of the vision encoder's family at the model's image size.
    pub image_processor: Option<PathBuf>,
    /// Number of threads that prepare samples on each rank; 0 prepares them inline.
    pub num_workers: usize,
    /// Prepends the tokenizer's BOS token, as LLaVA and Hugging Face do (NeMo does not). `null` is what the tokenizer's files
    /// say (`add_bos_token`, else the post-processor, else true), or false with `nemo_compat`.
    pub add_bos: Option<bool>,
    /// Shuffles the samples in each epoch; `false` reads them in order.
    pub shuffle: bool,
    /// Seed of the sample order.
    pub seed: u64,
}

impl Default for NevaPreloadedDataModule {
    fn default() -> Self {
        Self {
            paths: Vec::new(),
            weights: None,
            val_paths: Vec::new(),
            val_split: 0.0,
            on_error: OnError::Fail,
            max_skipped: None,
            skip_list: None,
            data_config: ImageDataConfig::default(),
            seq_length: 2048,
            global_batch_size: 8,
            micro_batch_size: 4,
            use_packed_sequence: false,
            packed_sequence_size: None,
            packing_buffer_size: None,
            packing_oversize: PackingOversize::Truncate,
            packed_set: None,
            group_by_modality_length: false,
            prefetch_factor: PREFETCH,
            tokenizer: None,
            image_processor: None,
            num_workers: 8,
            add_bos: None,
            shuffle: true,
            seed: 1234,
        }
    }
}

/// Maximum number of skipped samples if the run names none.
const MAX_SKIPPED: u64 = 100;

impl NevaPreloadedDataModule {
    /// Returns the maximum number of broken samples that `on_error: skip` skips.
    pub fn max_skipped(&self) -> usize {
        usize::try_from(self.max_skipped.unwrap_or(MAX_SKIPPED)).unwrap_or(usize::MAX)
    }

    /// Returns the settings of packing.
    pub(crate) fn packing_settings(&self) -> PackingSettings<'_> {
        PackingSettings {
            seq_length: self.seq_length,
            packed_sequence_size: self.packed_sequence_size,
            packing_buffer_size: self.packing_buffer_size,
            packing_oversize: self.packing_oversize,
            packed_set: self.packed_set.as_deref(),
            use_packed_sequence: self.use_packed_sequence,
            group_by_modality_length: self.group_by_modality_length,
        }
    }

    /// Reports weights that do not fit `paths`.
    fn validate_weights(&self, path: &str, problems: &mut Vec<Problem>) {
        let Some(weights) = &self.weights else { return };
        let at = format!("{path}.weights");
        if weights.len() != self.paths.len() {
            let message = format!("{} weight(s) for {} path(s)", weights.len(), self.paths.len());
            problems.push(Problem::error(at, message).help("give each path one weight, in the same order"));
            return;
        }
        let invalid = (0..).zip(weights).filter(|(_, weight)| !(weight.is_finite() && **weight >= 0.0));
        let invalid: Vec<_> = invalid
            .map(|(index, weight)| {
                let message = format!("`{weight:?}` is not a weight: it must be 0 or more");
                Problem::error(format!("{at}[{index}]"), message)
            })
            .collect();
        if invalid.is_empty() && !weights.iter().any(|weight| *weight > 0.0) {
            problems.push(Problem::error(at, "all weights are 0").help("give at least one path a weight above 0"));
        }
        problems.extend(invalid);
    }
}

/// Policy for broken samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// The run ends.
    Fail,
    /// The next sample is used instead, and the skipped one is counted in the log. A missing image folder ends the run.
    Skip,
}

/// One path or a list of paths.
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

/// Image processing and conversation format: NeMo's `vlm.ImageDataConfig`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ImageDataConfig {
    /// Base folder of the records' image paths, or an uncompressed `.tar` file that has the images under these paths; `null`
    /// means the folder of the JSON file.
    pub image_folder: Option<PathBuf>,
    /// Turns images upright by their EXIF orientation. `false` reads them as they are stored, as PIL and NeVA do.
    pub apply_exif: bool,
    /// Conversation template, for example `v1` or `plain`; `null` is the chat template of the tokenizer.
    pub conv_template: Option<String>,
    /// Conversation template of your own; instead of `conv_template`.
    pub conversation_template_config: Option<ConversationTemplateConfig>,
    /// Method to make images square.
    pub image_process_mode: ImageProcessMode,
    /// Position of `<image>` in a question.
    pub image_token_position: ImageTokenPosition,
    /// Tokenization of the text around images.
    pub image_text_tokenization: ImageTextTokenization,
}

impl Default for ImageDataConfig {
    fn default() -> Self {
        Self {
            image_folder: None,
            apply_exif: false,
            conv_template: Some("v1".into()),
            conversation_template_config: None,
            image_process_mode: ImageProcessMode::Pad,
            image_token_position: ImageTokenPosition::Keep,
            image_text_tokenization: ImageTextTokenization::Llava,
        }
    }
}

/// Method to make images square.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ImageProcessMode {
    /// Pads to a square with the mean colour, then resizes (LLaVA-1.5).
    Pad,
    /// Keeps the aspect ratio.
    Keep,
    /// Resizes the shorter edge and crops the centre.
    Square,
}

/// Position of `<image>` in a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ImageTokenPosition {
    /// As in the record (NeMo).
    Keep,
    /// Before the question, followed by a newline (LLaVA).
    Front,
}

/// Tokenization of the text around images. The two differ for tokenizers whose `prepend_scheme` is `first`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImageTextTokenization {
    /// Each text between images on its own (LLaVA, NeMo).
    Llava,
    /// The whole text with a special token for each image (Hugging Face's processors).
    HuggingFace,
}

impl Validate for NevaPreloadedDataModule {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        if self.paths.is_empty() {
            problems.push(Problem::error(format!("{path}.paths"), "no dataset is named").help("set `paths` to a LLaVA-JSON file"));
        }
        self.validate_weights(path, problems);
        self.packing_settings().validate(path, problems);
        if self.max_skipped.is_some() && self.on_error == OnError::Fail {
            let message = "`max_skipped` has no effect with `on_error: fail`";
            problems.push(Problem::error(format!("{path}.max_skipped"), message).help("set `on_error: skip`, or remove `max_skipped`"));
        }
        let at = format!("{path}.val_split");
        if !(0.0..1.0).contains(&self.val_split) {
            let message = format!("`val_split` is {:?}, it must be at least 0 and below 1", self.val_split);
            problems.push(Problem::error(at, message).help("0.05 uses 5 % of the samples for validation"));
        } else if self.val_split > 0.0 && !self.val_paths.is_empty() {
            let message = format!(
                "`val_split` is {:?}, but `val_paths` names the validation data already",
                self.val_split
            );
            problems.push(Problem::error(at, message).help("set `val_split` to 0, or `val_paths` to []"));
        }
    }
}
