//! The data module for Energon datasets: NeMo's `EnergonMultiModalDataModule`.

use crate::conversation_template::ConversationTemplateConfig;
use crate::data_modules::{ImageDataConfig, ImageProcessMode, NevaPreloadedDataModule, OnError, PREFETCH};
use crate::packing::{PackingOversize, PackingSettings};
use crate::validate::{Problem, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// WebDataset shards with Energon's metadata, a metadataset, or a `.jsonl` file: NeMo's `EnergonMultiModalDataModule`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EnergonMultiModalDataModule {
    /// A prepared dataset (the folder that has `.nv-meta`), a metadataset (`.yaml`) or a `.jsonl` file. Its split `train` is
    /// trained on, and its split `val` is the validation data.
    pub path: PathBuf,
    /// Mappings from the parts of a sample to the fields of its type, for datasets that have a `sample_loader.py` or are
    /// crude. The key is the name of the dataset's folder or
    /// `.jsonl` file, or the end of its path (`a/train`), or the names in a join with `+` between them.
    pub sample_loaders: BTreeMap<String, SampleLoader>,
    /// Tokenizer: a folder or file (`tokenizer.json`), or `builtin:NAME`; `null` uses the one of the restored model.
    pub tokenizer: Option<String>,
    /// Image processor: a folder or file (`preprocessor_config.json`, `processor_config.json`); `null` uses the one of the
    /// model's weights, or the values of the vision encoder's family at the model's image size.
    pub image_processor: Option<PathBuf>,
    /// Maximum length of the combined text and image sequence; longer samples are truncated on the right.
    pub seq_length: usize,
    /// Number of samples per forward pass of one rank.
    pub micro_batch_size: u64,
    /// Number of samples per optimizer step, over all ranks.
    pub global_batch_size: u64,
    /// Number of threads that prepare samples on each rank; 0 prepares them inline.
    pub num_workers: usize,
    /// Accepted as in NeMo. Validation uses `num_workers` threads.
    pub num_val_workers: Option<usize>,
    /// Accepted as in NeMo; it has no effect.
    pub pin_memory: Option<bool>,
    /// Accepted as in NeMo. Every epoch is shuffled as a whole, whatever the size of a buffer; `shuffle: false` reads in order.
    pub shuffle_buffer_size: Option<u64>,
    /// Accepted as in NeMo. Samples are read at random, not in sequences of a shard.
    pub max_samples_per_sequence: Option<u64>,
    /// Image token, template and place of images.
    pub multimodal_sample_config: MultiModalSampleConfig,
    /// Task encoder; `null` is `MultiModalTaskEncoder`.
    pub task_encoder: Option<TaskEncoder>,
    /// Task encoder of the validation data; it must be that of the training data.
    pub validation_task_encoder: Option<TaskEncoder>,
    /// Not supported: decoder-only models have one sequence.
    pub decoder_seq_length: Option<usize>,
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
    /// Method to make images square. NeMo crops the centre (`square`), LLaVA-1.5 pads.
    pub image_process_mode: ImageProcessMode,
    /// Turns images upright by their EXIF orientation. `false` reads them as they are stored, as PIL and NeVA do.
    pub apply_exif: bool,
    /// Prepends the tokenizer's BOS token, as LLaVA and Hugging Face do (NeMo does not). `null` is what the tokenizer's files
    /// say (`add_bos_token`, else the post-processor, else true), or false with `nemo_compat`.
    pub add_bos: Option<bool>,
    /// Policy for broken samples: a part that is missing or invalid, an image that cannot be decoded.
    pub on_error: OnError,
    /// Maximum number of broken samples that `on_error: skip` skips on a rank before the run fails; `null` means 100.
    pub max_skipped: Option<u64>,
    /// File with the samples that are left out, written by `neva-run data check`.
    pub skip_list: Option<PathBuf>,
    /// Shuffles the samples in each epoch; `false` reads them in order.
    pub shuffle: bool,
    /// Seed of the sample order.
    pub seed: u64,
}

impl Default for EnergonMultiModalDataModule {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            sample_loaders: BTreeMap::new(),
            tokenizer: None,
            image_processor: None,
            seq_length: 2048,
            micro_batch_size: 1,
            global_batch_size: 1,
            num_workers: 1,
            num_val_workers: None,
            pin_memory: None,
            shuffle_buffer_size: None,
            max_samples_per_sequence: None,
            multimodal_sample_config: MultiModalSampleConfig::default(),
            task_encoder: None,
            validation_task_encoder: None,
            decoder_seq_length: None,
            use_packed_sequence: false,
            packed_sequence_size: None,
            packing_buffer_size: None,
            packing_oversize: PackingOversize::Truncate,
            packed_set: None,
            group_by_modality_length: false,
            prefetch_factor: PREFETCH,
            image_process_mode: ImageProcessMode::Pad,
            apply_exif: false,
            add_bos: None,
            on_error: OnError::Fail,
            max_skipped: None,
            skip_list: None,
            shuffle: true,
            seed: 1234,
        }
    }
}

/// Declarative mapping of a dataset's samples, instead of Energon's `sample_loader.py`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SampleLoader {
    /// Energon's sample type, for example `VQASample`; `null` is that of `dataset.yaml`.
    pub sample_type: Option<String>,
    /// Expression of each field of the type: `json[question]`, `parts(json[images])`, `"text"`.
    pub field_map: BTreeMap<String, String>,
}

/// Encodes samples for a model: NeMo's `MultiModalSampleConfig`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MultiModalSampleConfig {
    /// Placeholder of an image in a text.
    pub image_token: ImageToken,
    /// Label of positions that the loss ignores; always -100.
    pub ignore_place_holder: i64,
    /// Conversation template of questions and answers; `null` is the chat template of the tokenizer.
    pub conversation_template_config: Option<ConversationTemplateConfig>,
    /// Puts an image behind the text that it belongs to, in samples of matched images and texts; `false` puts it in front.
    pub image_following_text: bool,
}

impl Default for MultiModalSampleConfig {
    fn default() -> Self {
        Self {
            image_token: ImageToken::default(),
            ignore_place_holder: IGNORE,
            conversation_template_config: Some(ConversationTemplateConfig::default()),
            image_following_text: true,
        }
    }
}

/// Placeholder of an image: NeMo's `ImageToken`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ImageToken {
    /// Text that stands for an image.
    pub token_str: String,
    /// Its id before the image's features replace it; always -200.
    pub token_id: i64,
}

impl Default for ImageToken {
    fn default() -> Self {
        Self {
            token_str: "<image>".into(),
            token_id: IMAGE,
        }
    }
}

const IGNORE: i64 = -100;
const IMAGE: i64 = -200;

/// The task encoder of a data module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub enum TaskEncoder {
    /// The encoder of all sample types.
    #[serde(rename = "MultiModalTaskEncoder")]
    MultiModal(MultiModalTaskEncoder),
    /// A custom type of the rank program, registered under its `_target_`: `my_crate::MyEncoder`.
    Custom(CustomTaskEncoder),
}

/// A custom task encoder as written: its `_target_` and its own arguments.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CustomTaskEncoder(pub Map<String, Value>);

impl CustomTaskEncoder {
    /// Returns the name under which it is registered.
    pub fn target(&self) -> &str {
        self.0.get("_target_").and_then(Value::as_str).unwrap_or_default()
    }

    /// Returns its arguments.
    pub fn arguments(&self) -> Map<String, Value> {
        let own = self.0.iter().filter(|(name, _)| *name != "_target_");
        own.map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}

/// NeMo's `MultiModalTaskEncoder`. Tokenizer and image processor are those of the data module.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MultiModalTaskEncoder {
    /// Instead of the data module's `multimodal_sample_config`.
    pub multimodal_sample_config: Option<MultiModalSampleConfig>,
    /// As the data module's `use_packed_sequence`.
    pub packed_sequence: bool,
}

impl EnergonMultiModalDataModule {
    /// Returns the sample config: that of the task encoder, if it has one.
    pub fn sample_config(&self) -> &MultiModalSampleConfig {
        let own = self.task_encoder.as_ref().and_then(|encoder| match encoder {
            TaskEncoder::MultiModal(encoder) => encoder.multimodal_sample_config.as_ref(),
            TaskEncoder::Custom(_) => None,
        });
        own.unwrap_or(&self.multimodal_sample_config)
    }

    /// Returns true if the samples of a forward pass are packed into shared rows.
    pub fn packs(&self) -> bool {
        let packs = |encoder: &TaskEncoder| matches!(encoder, TaskEncoder::MultiModal(encoder) if encoder.packed_sequence);
        self.use_packed_sequence || self.task_encoder.as_ref().is_some_and(packs)
    }

    /// Returns the settings of packing.
    pub(crate) fn packing_settings(&self) -> PackingSettings<'_> {
        PackingSettings {
            seq_length: self.seq_length,
            packed_sequence_size: self.packed_sequence_size,
            packing_buffer_size: self.packing_buffer_size,
            packing_oversize: self.packing_oversize,
            packed_set: self.packed_set.as_deref(),
            use_packed_sequence: self.packs(),
            group_by_modality_length: self.group_by_modality_length,
        }
    }

    /// Returns the maximum number of broken samples that `on_error: skip` skips.
    pub fn max_skipped(&self) -> usize {
        self.preloaded().max_skipped()
    }

    /// Returns image processing and conversation format of questions and answers.
    pub fn data_config(&self) -> ImageDataConfig {
        ImageDataConfig {
            apply_exif: self.apply_exif,
            conv_template: None,
            conversation_template_config: self.sample_config().conversation_template_config.clone(),
            image_process_mode: self.image_process_mode,
            ..ImageDataConfig::default()
        }
    }

    /// Returns the settings of tokenizer, image processor and template in the form of the other data module, whose tools are
    /// the same. It names no files of records.
    pub fn preloaded(&self) -> NevaPreloadedDataModule {
        NevaPreloadedDataModule {
            tokenizer: self.tokenizer.clone(),
            image_processor: self.image_processor.clone(),
            data_config: self.data_config(),
            add_bos: self.add_bos,
            on_error: self.on_error,
            max_skipped: self.max_skipped,
            seq_length: self.seq_length,
            ..NevaPreloadedDataModule::default()
        }
    }

    fn validate_unsupported(&self, path: &str, problems: &mut Vec<Problem>) {
        if self.decoder_seq_length.is_some() {
            let message = "models of encoder and decoder are not supported";
            problems.push(
                Problem::error(format!("{path}.decoder_seq_length"), message).help("remove it; `seq_length` is that of all positions"),
            );
        }
        if self.validation_task_encoder.is_some() && self.validation_task_encoder != self.task_encoder {
            let message = "the validation data must be encoded as the training data";
            problems.push(Problem::error(format!("{path}.validation_task_encoder"), message).help("remove it"));
        }
        let ignored = [
            (
                "num_val_workers",
                self.num_val_workers.is_some_and(|workers| workers != self.num_workers),
                "validation uses `num_workers` threads",
            ),
            (
                "pin_memory",
                self.pin_memory.is_some(),
                "batches are copied to the device as they are needed",
            ),
            (
                "shuffle_buffer_size",
                self.shuffle_buffer_size.is_some(),
                "every epoch is shuffled as a whole, without a buffer",
            ),
            (
                "max_samples_per_sequence",
                self.max_samples_per_sequence.is_some(),
                "samples are read at random, not in sequences of a shard",
            ),
        ];
        for (name, is_set, message) in ignored {
            if is_set {
                problems.push(Problem::warning(
                    format!("{path}.{name}"),
                    format!("`{name}` has no effect: {message}"),
                ));
            }
        }
    }
}

impl MultiModalSampleConfig {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        let token = &self.image_token;
        if token.token_str.is_empty() {
            let message = "the image token is empty";
            problems.push(
                Problem::error(format!("{path}.image_token.token_str"), message).help("name the text that stands for an image, <image>"),
            );
        }
        if token.token_id != IMAGE {
            let message = format!("`token_id` is {}, the id of an image is always {IMAGE}", token.token_id);
            problems.push(
                Problem::error(format!("{path}.image_token.token_id"), message)
                    .help("remove it: the id is replaced by the image's features"),
            );
        }
        if self.ignore_place_holder != IGNORE {
            let message = format!(
                "`ignore_place_holder` is {}, the ignored label is always {IGNORE}",
                self.ignore_place_holder
            );
            problems.push(Problem::error(format!("{path}.ignore_place_holder"), message).help("remove it"));
        }
    }
}

impl Validate for EnergonMultiModalDataModule {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        if self.path.as_os_str().is_empty() {
            let help = "set `path` to a folder that `neva-run data prepare` or `energon prepare` has prepared, or to a metadataset";
            problems.push(Problem::error(format!("{path}.path"), "no dataset is named").help(help));
        }
        if self.max_skipped.is_some() && self.on_error == OnError::Fail {
            let message = "`max_skipped` has no effect with `on_error: fail`";
            problems.push(Problem::error(format!("{path}.max_skipped"), message).help("set `on_error: skip`, or remove `max_skipped`"));
        }
        self.validate_unsupported(path, problems);
        self.packing_settings().validate(path, problems);
        self.multimodal_sample_config
            .validate(&format!("{path}.multimodal_sample_config"), problems);
        if let Some(TaskEncoder::Custom(custom)) = &self.task_encoder
            && !custom.target().contains("::")
        {
            let message = format!("there is no task encoder {:?}", custom.target());
            let help = "built in is MultiModalTaskEncoder; an own type is named by its path, my_crate::MyEncoder";
            problems.push(Problem::error(format!("{path}.task_encoder._target_"), message).help(help));
        }
        if let Some(TaskEncoder::MultiModal(encoder)) = &self.task_encoder
            && let Some(config) = &encoder.multimodal_sample_config
        {
            config.validate(&format!("{path}.task_encoder.multimodal_sample_config"), problems);
        }
    }
}
