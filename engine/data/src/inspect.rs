//! Samples as the model gets them, for a person who looks at them: images before and after processing, text, tokens,
//! labels, and what is cut.

mod energon;
mod image;
mod page;
mod piece;

use std::{path::Path, sync::Arc};

use serde::Serialize;

use crate::{
    check::{Kind, Parsed, Probe, Source},
    conversation::Conversation,
    error::DataError,
};
pub use energon::{EnergonView, inspect_energon};
pub use image::InspectedImage;
pub use page::page;
pub use piece::Piece;

/// Records to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// This number of records, evenly spread over all data files.
    Spread(usize),
    /// One record of a data file, which is the first one without a name.
    Record {
        /// The file, as the recipe names it, or the last components of its path.
        file: Option<String>,
        /// Index of the record, from 0.
        index: usize,
    },
}

/// Error of a selection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InspectError {
    /// The `.tar` file of the images cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A data file cannot be read.
    #[error("{file}: {reason}")]
    File {
        /// The file.
        file: String,
        /// The reason.
        reason: String,
    },
    /// No data file has this name.
    #[error("the recipe has no data file `{requested}`: it has {}", files.join(", "))]
    UnknownFile {
        /// The requested name.
        requested: String,
        /// The data files.
        files: Vec<String>,
    },
    /// The file has no such record.
    #[error("there is no record {index} in {file}, which has {len} records, from 0")]
    Index {
        /// The file.
        file: String,
        /// The requested index.
        index: usize,
        /// Number of records.
        len: usize,
    },
    /// No data file has a record.
    #[error("there is no record in {}", files.join(", "))]
    NoRecords {
        /// The data files.
        files: Vec<String>,
    },
}

/// Settings of the data that all samples share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InspectedData {
    /// The data files, as the recipe names them.
    pub files: Vec<String>,
    /// Number of records of all files.
    pub records: usize,
    /// Conversation template.
    pub template: String,
    /// Address of the tokenizer; `None` if it is that of the model.
    pub tokenizer: Option<String>,
    /// Maximum number of positions of a sample.
    pub seq_length: usize,
    /// Number of positions of an image.
    pub image_positions: usize,
    /// The samples.
    pub samples: Vec<InspectedSample>,
}

/// A sample as the model gets it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InspectedSample {
    /// The data file, as the recipe names it.
    pub file: String,
    /// Index of the record, from 0.
    pub record: usize,
    /// The record's `id`.
    pub id: Option<String>,
    /// Kind and description of each problem.
    pub problems: Vec<(Kind, String)>,
    /// The images, in the order of their placeholders.
    pub images: Vec<InspectedImage>,
    /// Text that the template renders.
    pub text: String,
    /// The tokens.
    pub pieces: Vec<Piece>,
    /// Number of positions before the cut at `seq_length`.
    pub positions: usize,
    /// Number of these that are of images.
    pub image_positions: usize,
    /// Number of labels before the cut.
    pub labels: usize,
    /// Number of labels that the cut leaves.
    pub kept_labels: usize,
}

impl InspectedSample {
    /// Returns the name, as in the messages of a run: file, record and id.
    #[must_use]
    pub fn name(&self) -> String {
        let id = self.id.as_ref().map(|id| format!(" (id {id})")).unwrap_or_default();
        format!("{}#{}{id}", self.file, self.record)
    }
}

/// Reads the selected records. A record with a problem is returned with it.
///
/// # Errors
/// A data file cannot be read, or there is no such record.
pub fn inspect(probe: &Probe, selection: &Selection, indices: Option<&Path>) -> Result<InspectedData, InspectError> {
    let sources = probe.sources(indices)?;
    let names: Vec<String> = sources.iter().map(|source| source.name.to_string()).collect();
    for source in &sources {
        if let Err((_, record, reason)) = &source.records {
            let record = record.map(|record| format!(": record {record}")).unwrap_or_default();
            return Err(InspectError::File {
                file: format!("{}{record}", source.name),
                reason: reason.clone(),
            });
        }
    }
    let records = sources.iter().map(Source::len).sum();
    if records == 0 {
        return Err(InspectError::NoRecords { files: names });
    }
    let places = match selection {
        Selection::Spread(count) => spread(&sources, *count, records),
        Selection::Record { file, index } => vec![find(&sources, file.as_deref(), *index, &names)?],
    };
    Ok(InspectedData {
        samples: places.into_iter().map(|(source, index)| sample(probe, source, index)).collect(),
        files: names,
        records,
        template: probe.template().to_owned(),
        tokenizer: probe.tokenizer_name().map(str::to_owned),
        seq_length: probe.seq_length(),
        image_positions: probe.image_seq_len(),
    })
}

/// Returns `count` records at equal distances, the first one included.
fn spread(sources: &[Source], count: usize, records: usize) -> Vec<(&Source, usize)> {
    spread_numbers(count, records).filter_map(|n| nth(sources, n)).collect()
}

/// Returns `count` numbers below `records` at equal distances, 0 included.
fn spread_numbers(count: usize, records: usize) -> impl Iterator<Item = usize> {
    let count = count.clamp(1, records.max(1));
    (0..count).map(move |n| (n as u128 * records as u128 / count as u128) as usize)
}

/// Returns the record at `index` of all files.
fn nth(sources: &[Source], mut index: usize) -> Option<(&Source, usize)> {
    for source in sources {
        if index < source.len() {
            return Some((source, index));
        }
        index -= source.len();
    }
    None
}

fn find<'a>(sources: &'a [Source], file: Option<&str>, index: usize, names: &[String]) -> Result<(&'a Source, usize), InspectError> {
    let is_named = |source: &&Source| file.is_none_or(|file| *source.name == *file || source.path.ends_with(file));
    let source = sources.iter().find(is_named).ok_or_else(|| InspectError::UnknownFile {
        requested: file.unwrap_or_default().to_owned(),
        files: names.to_vec(),
    })?;
    if index >= source.len() {
        return Err(InspectError::Index {
            file: source.name.to_string(),
            index,
            len: source.len(),
        });
    }
    Ok((source, index))
}

fn sample(probe: &Probe, source: &Source, record: usize) -> InspectedSample {
    let mut sample = InspectedSample {
        file: Arc::clone(&source.name).to_string(),
        record,
        ..InspectedSample::default()
    };
    let value = match source.value(record) {
        Ok(value) => value,
        Err(problem) => {
            sample.problems.push(problem);
            return sample;
        }
    };
    let Parsed { id, content, problems, .. } = probe.parse(source, value);
    sample.id = id;
    let named = problems.into_iter().map(|(kind, field, reason)| match field {
        Some(field) if field != kind.name() => (kind, format!("{field}: {reason}")),
        _ => (kind, reason),
    });
    sample.problems.extend(named);
    if let Some((images, conversation)) = content {
        let mut tiles = Vec::new();
        for image in &images {
            let image = InspectedImage::open(probe, image);
            tiles.push(image.processed.len().max(1));
            sample.problems.extend(image.problem.clone());
            sample.images.push(image);
        }
        tokens(probe, &conversation, &tiles, &mut sample);
    }
    sample
}

fn tokens(probe: &Probe, conversation: &Conversation, tiles: &[usize], sample: &mut InspectedSample) {
    let (prompt, encoded) = match probe.encode(conversation) {
        Ok(encoded) => encoded,
        Err(problem) => return sample.problems.push(problem),
    };
    sample.text = prompt.text;
    let decode = |ids: &[i64]| probe.decode_tokens(ids);
    sample.pieces = piece::pieces(&decode, &encoded, tiles, probe.image_seq_len(), probe.seq_length());
    match probe.lengths(encoded, tiles) {
        Ok(lengths) => {
            sample.positions = lengths.positions;
            sample.image_positions = lengths.image_positions;
            sample.labels = lengths.labels;
            sample.kept_labels = lengths.kept_labels;
        }
        Err(reason) => sample.problems.push((Kind::Tokens, reason)),
    }
}
