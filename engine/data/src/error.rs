//! What can be wrong with data.

use std::{fmt, path::PathBuf, sync::Arc};

/// Everything that this crate refuses, with what is needed to mend it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A sample number beyond the dataset.
    #[error("there is no sample {index} in a dataset of {len}")]
    Index {
        /// The number asked for.
        index: usize,
        /// Samples in the dataset.
        len: usize,
    },

    /// A file that cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        error: std::io::Error,
    },

    /// A file that is no whole picture.
    #[error("{name}: {reason}")]
    Picture {
        /// File name.
        name: String,
        /// Why it cannot be decoded.
        reason: String,
    },

    /// An image processor that is not ours.
    #[error("{}: {reason}", path.display())]
    Processor {
        /// The `preprocessor_config.json`.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// A template that does not exist.
    #[error("there is no conversation template `{name}`: choose one of {}", known.join(", "))]
    UnknownTemplate {
        /// What was asked for.
        name: String,
        /// All names.
        known: Vec<&'static str>,
    },

    /// A conversation that a template cannot write.
    #[error("template `{template}` cannot render this conversation: {reason}")]
    Conversation {
        /// Name of the template.
        template: &'static str,
        /// What is wrong with the conversation.
        reason: &'static str,
    },

    /// A tokenizer that cannot be used.
    #[error("tokenizer {name}: {reason}")]
    Tokenizer {
        /// Its address.
        name: String,
        /// What is wrong with it.
        reason: String,
    },

    /// Records that cannot be used.
    #[error("{} problem(s) in the data:{}", problems.len(), listed(problems))]
    Records {
        /// All of them, in the order of the files.
        problems: Vec<Problem>,
    },

    /// Files without a single record.
    #[error("no record in {}", paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "))]
    NoRecords {
        /// The files.
        paths: Vec<PathBuf>,
    },

    /// Pictures that cannot be stacked.
    #[error("{sample}: a picture of {}x{} among pictures of {}x{} (height x width): \
             choose an image_process_mode that gives all pictures one size, `pad` or `square`",
            size.0, size.1, expected.0, expected.1)]
    PictureSize {
        /// Sample name.
        sample: String,
        /// Its picture's (height, width).
        size: (usize, usize),
        /// That of the batch's first picture.
        expected: (usize, usize),
    },

    /// The system gives no thread.
    #[error("cannot start a data worker: {0}")]
    Thread(std::io::Error),

    /// A data worker is gone without a word.
    #[error("data worker {worker} has panicked: its message is above")]
    WorkerLost {
        /// Its number.
        worker: usize,
    },

    /// A mock dataset that cannot be built.
    #[error("mock data: {0}")]
    Mock(String),

    /// Samples that cannot be cut in two.
    #[error("cannot set aside {part:?} of {len} sample(s) for validation: {reason}")]
    Split {
        /// Samples there are.
        len: u64,
        /// The part asked for.
        part: f64,
        /// What is wrong, and what to do.
        reason: &'static str,
    },

    /// A batch of no samples.
    #[error("a batch needs at least one sample")]
    EmptyBatch,

    /// The longest row cannot be shared out.
    #[error("max_length {max_length} is not a positive multiple of {row_multiple}, the number of equal parts of a row: \
             choose {}", suggest(*max_length, *row_multiple))]
    RowMultiple {
        /// Longest row.
        max_length: usize,
        /// Needed factor.
        row_multiple: usize,
    },

    /// Placeholders and pictures disagree.
    #[error("{sample}: {placeholders} image placeholder(s) but {pictures} picture(s): give each picture one `<image>`")]
    ImageCount {
        /// Sample name.
        sample: String,
        /// `<image>` in the text.
        placeholders: usize,
        /// Pictures given.
        pictures: usize,
    },

    /// Ids and labels disagree.
    #[error("{sample}: {ids} token ids but {labels} labels")]
    LabelCount {
        /// Sample name.
        sample: String,
        /// Token ids.
        ids: usize,
        /// Labels.
        labels: usize,
    },
}

fn suggest(max_length: usize, row_multiple: usize) -> usize {
    max_length.max(1).next_multiple_of(row_multiple.max(1))
}

/// One thing that is wrong with one record, or with a whole file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: Arc<str>,
    /// Number of the record, from 0.
    pub record: Option<usize>,
    /// The record's `id`, as it is written.
    pub id: Option<String>,
    /// The field that is wrong.
    pub field: Option<&'static str>,
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if let Some(record) = self.record {
            write!(f, ": record {record}")?;
        }
        if let Some(id) = &self.id {
            write!(f, " (id {id})")?;
        }
        if let Some(field) = self.field {
            write!(f, ", {field}")?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// Problems printed in full; the others are counted.
const LISTED: usize = 20;

fn listed(problems: &[Problem]) -> String {
    let mut lines: Vec<String> = problems.iter().take(LISTED).map(|problem| format!("\n  {problem}")).collect();
    if problems.len() > LISTED {
        lines.push(format!("\n  and {} more", problems.len() - LISTED));
    }
    lines.concat()
}
