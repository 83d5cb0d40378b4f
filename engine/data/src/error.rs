//! Errors of this crate.

use std::path::PathBuf;

use crate::problem::{Problem, first_problems};

/// Error of this crate, with the data that its message needs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A sample index beyond the end of the dataset.
    #[error("there is no sample {index} in a dataset of {len}")]
    Index {
        /// The requested index.
        index: usize,
        /// Number of samples in the dataset.
        len: usize,
    },

    /// A file that cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Error of the operating system.
        error: std::io::Error,
    },

    /// A file of images that is not a usable archive.
    #[error("{} {reason}", path.display())]
    Archive {
        /// The file.
        path: PathBuf,
        /// Reason for which it cannot be used.
        reason: String,
    },

    /// A file that is not a complete image.
    #[error("{name}: {reason}")]
    Image {
        /// File name.
        name: String,
        /// Reason for which it cannot be decoded.
        reason: String,
    },

    /// A sample that cannot be read.
    #[error("{sample}: {error}")]
    Sample {
        /// Sample name.
        sample: String,
        /// The reason.
        error: Box<Self>,
    },

    /// An unsupported or invalid `preprocessor_config.json`.
    #[error("{}: {reason}", path.display())]
    Processor {
        /// Path of the `preprocessor_config.json`.
        path: PathBuf,
        /// Description of the problem.
        reason: String,
    },

    /// An unknown conversation template.
    #[error("there is no conversation template `{name}`: choose one of {}", known.join(", "))]
    UnknownTemplate {
        /// The requested name.
        name: String,
        /// Names of all templates.
        known: Vec<&'static str>,
    },

    /// A conversation that a template cannot render.
    #[error("template `{template}` cannot render this conversation: {reason}")]
    Conversation {
        /// Name of the template.
        template: String,
        /// Problem of the conversation.
        reason: String,
    },

    /// A Jinja template that cannot be used.
    #[error("chat template {name}: {reason}")]
    ChatTemplate {
        /// Its origin.
        name: String,
        /// Description of the problem.
        reason: String,
    },

    /// Neither the recipe nor the tokenizer has a conversation template.
    #[error("there is no conversation template: the recipe names none, and the tokenizer {tokenizer} has no chat template")]
    NoTemplate {
        /// Name of the tokenizer.
        tokenizer: String,
    },

    /// A tokenizer that spells the end of an answer with several tokens.
    #[error(
        "template `{template}` {}, so the trained model would not stop{}",
        stop_problem(strings, tokenizer),
        fitting(templates)
    )]
    StopString {
        /// Name of the template.
        template: String,
        /// Name of the tokenizer.
        tokenizer: String,
        /// Strings that are not single tokens. Empty: the template writes no special token after an answer.
        strings: Vec<String>,
        /// Templates that fit the tokenizer.
        templates: Vec<&'static str>,
    },

    /// A tokenizer that cannot be used.
    #[error("tokenizer {name}: {reason}")]
    Tokenizer {
        /// Its path or `builtin:NAME`.
        name: String,
        /// Description of the problem.
        reason: String,
    },

    /// Invalid records.
    #[error("{} problem(s) in the data:{}", problems.len(), first_problems(problems))]
    Records {
        /// All problems, in the order of the files.
        problems: Vec<Problem>,
    },

    /// More broken samples than the limit.
    #[error(
        "{skipped} broken samples are more than max_skipped {max_skipped}: mend the data, write a skip list with `neva-run data \
             check`, or set finetune.data.max_skipped; the last one: {error}"
    )]
    TooManyBroken {
        /// Number of broken samples so far.
        skipped: usize,
        /// The limit.
        max_skipped: usize,
        /// Error of the last one, or of all.
        error: Box<Self>,
    },

    /// The folder of all images does not exist.
    #[error("there is no image folder {}: set finetune.data.data_config.image_folder", folder.display())]
    NoImageFolder {
        /// The folder.
        folder: PathBuf,
    },

    /// A problem of an Energon dataset as a whole: its metadata, a shard, an index.
    #[error("{}{}: {reason}", path.display(), in_field(field))]
    Energon {
        /// The file.
        path: PathBuf,
        /// Its field or place; empty for the whole file.
        field: String,
        /// Problem and advice.
        reason: String,
    },

    /// A problem of one sample of an Energon dataset.
    #[error("{sample}{}: {reason}", in_field(field))]
    EnergonSample {
        /// Shard and key of the sample.
        sample: String,
        /// Its part or field; empty for the whole sample.
        field: String,
        /// Problem and advice.
        reason: String,
    },

    /// Weights that do not fit the files.
    #[error("weights: {0}")]
    Weights(String),

    /// An invalid line of a skip list.
    #[error("{}: line {line} {reason}", path.display())]
    SkipList {
        /// The skip list.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// Description of the problem.
        reason: String,
    },

    /// A file that cannot be written.
    #[error("cannot write {}: {error}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Error of the operating system.
        error: std::io::Error,
    },

    /// No record in any of the files.
    #[error("no record in {}", paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "))]
    NoRecords {
        /// The files.
        paths: Vec<PathBuf>,
    },

    /// Images of different sizes in one batch.
    #[error("{sample}: an image of {}x{} among images of {}x{} (height x width): \
             choose an image_process_mode that gives all images one size, `pad` or `square`",
            size.0, size.1, expected.0, expected.1)]
    ImageSize {
        /// Sample name.
        sample: String,
        /// Its image's (height, width).
        size: (usize, usize),
        /// (height, width) of the batch's first image.
        expected: (usize, usize),
    },

    /// The operating system cannot start a thread.
    #[error("cannot start a data worker: {0}")]
    Thread(std::io::Error),

    /// A data worker panicked.
    #[error("data worker {worker} panicked: see its message above")]
    WorkerPanicked {
        /// Its number.
        worker: usize,
    },

    /// Invalid settings of the mock dataset.
    #[error("mock data: {0}")]
    Mock(String),

    /// A validation split that is not possible.
    #[error("cannot set aside {fraction:?} of {len} sample(s) for validation: {reason}")]
    Split {
        /// Number of samples in the dataset.
        len: u64,
        /// The requested fraction.
        fraction: f64,
        /// Problem and advice.
        reason: &'static str,
    },

    /// Rows that no sample fits.
    #[error(
        "none of {samples} samples fits into {max_length} positions: raise seq_length or packed_sequence_size, or set \
             packing_oversize to truncate"
    )]
    NothingFits {
        /// Number of samples.
        samples: u64,
        /// Maximum length of a sample.
        max_length: usize,
    },

    /// More samples than a packed set can have.
    #[error("{samples} samples are more than a packed set can have, 2^32: set packing_buffer_size instead of packed_set")]
    TooManySamples {
        /// Number of samples.
        samples: usize,
    },

    /// A packed set that does not fit the run.
    #[error("{} {reason}: write it again with `neva-run data pack`", path.display())]
    PackedSet {
        /// The file.
        path: PathBuf,
        /// The difference.
        reason: String,
    },

    /// A row that is longer than its packed samples should be.
    #[error("{sample}: its row has {length} positions, more than {row_length}: write the packed set again with `neva-run data pack`")]
    RowTooLong {
        /// Name of the row's first sample.
        sample: String,
        /// Length of the row.
        length: usize,
        /// Maximum length of a row.
        row_length: usize,
    },

    /// A batch without samples.
    #[error("a batch needs at least one sample")]
    EmptyBatch,

    /// A maximum row length that cannot be partitioned among the ranks.
    #[error("max_length {max_length} is not a positive multiple of {row_multiple}, the number of equal chunks of a row: \
             choose {}", suggest(*max_length, *row_multiple))]
    RowMultiple {
        /// Maximum row length.
        max_length: usize,
        /// Required divisor.
        row_multiple: usize,
    },

    /// Different numbers of placeholders and images.
    #[error("{sample}: {placeholders} image placeholder(s) but {images} image(s): give each image one `<image>`")]
    ImageCount {
        /// Sample name.
        sample: String,
        /// Number of `<image>` placeholders in the text.
        placeholders: usize,
        /// Number of images.
        images: usize,
    },

    /// Different numbers of token ids and labels.
    #[error("{sample}: {ids} token ids but {labels} labels")]
    LabelCount {
        /// Sample name.
        sample: String,
        /// Number of token ids.
        ids: usize,
        /// Number of labels.
        labels: usize,
    },
}

impl DataError {
    /// Returns whether the error is that of one sample's content, which is the same on all ranks: an invalid record, or an
    /// image that is missing or cannot be decoded. Other errors of reading may be those of one machine.
    #[must_use]
    pub fn is_of_one_sample(&self) -> bool {
        match self {
            Self::Image { .. }
            | Self::Conversation { .. }
            | Self::ImageCount { .. }
            | Self::LabelCount { .. }
            | Self::Records { .. }
            | Self::EnergonSample { .. } => true,
            Self::Read { error, .. } => error.kind() == std::io::ErrorKind::NotFound,
            Self::Sample { error, .. } => error.is_of_one_sample(),
            _ => false,
        }
    }

    /// Returns setting and reason of a problem of the recipe itself.
    #[must_use]
    pub fn setting(&self) -> Option<(String, &str)> {
        match self {
            Self::Energon { path, field, reason } => {
                let path = path.to_str().filter(|path| path.starts_with("finetune."))?;
                Some((format!("{path}.{field}"), reason))
            }
            _ => None,
        }
    }

    /// Adds the name of the sample, unless the error names it already.
    pub(crate) fn of_sample(self, sample: impl FnOnce() -> String) -> Self {
        match self {
            // These name the sample, or no sample exists.
            Self::Sample { .. }
            | Self::Index { .. }
            | Self::ImageCount { .. }
            | Self::LabelCount { .. }
            | Self::ImageSize { .. }
            | Self::EnergonSample { .. } => self,
            error => Self::Sample {
                sample: sample(),
                error: Box::new(error),
            },
        }
    }
}

fn in_field(field: &str) -> String {
    match field {
        "" => String::new(),
        field => format!(", {field}"),
    }
}

fn stop_problem(strings: &[String], tokenizer: &str) -> String {
    let quoted: Vec<_> = strings.iter().map(|string| format!("`{string}`")).collect();
    if quoted.is_empty() {
        return "writes no special token after an answer".to_owned();
    }
    let quoted = quoted.join(", ");
    format!("ends answers with {quoted}, which the tokenizer {tokenizer} spells with several tokens")
}

fn fitting(templates: &[&str]) -> String {
    if templates.is_empty() {
        String::new()
    } else {
        format!("; templates that fit the tokenizer: {}", templates.join(", "))
    }
}

fn suggest(max_length: usize, row_multiple: usize) -> usize {
    max_length.max(1).next_multiple_of(row_multiple.max(1))
}
