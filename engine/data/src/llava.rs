//! Conversations about images in LLaVA's JSON format (NeMo's `NevaPreloadedDataModule`).
//!
//! ```json
//! [{"id": 7, "image": "cat.jpg", "conversations": [{"from": "human", "value": "<image>\nWhat is it?"},
//!                                                  {"from": "gpt", "value": "A cat."}]}]
//! ```
//!
//! Loading checks every record of every file, including that the image files exist, so that problems are reported
//! before the first step. An image is decoded when its sample is read with pixels.

mod record;

use std::{
    fs::File,
    io::{BufReader, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{
    Deserialize, Deserializer as _,
    de::{SeqAccess, Visitor},
};
use serde_json::Value;

use crate::{
    error::{DataError, Problem},
    image::{ImageProcessor, RgbImage},
    sample::{Dataset, Pixels, Sample},
    template::{Template, render},
    tokenizer::Tokenizer,
};
use record::Record;

/// Settings of a [`LlavaDataset`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LlavaJsonConfig {
    /// JSON files, each a list of records. Their records are concatenated in this order.
    pub paths: Vec<PathBuf>,
    /// Folder that the records' image paths are relative to. `None`: the folder of the JSON file.
    pub image_folder: Option<PathBuf>,
    /// Name of the conversation template.
    pub template: String,
    /// Position of `<image>` within a question.
    pub image_token_position: ImagePosition,
    /// True if the model reads images; otherwise a record with an image is a problem.
    pub reads_images: bool,
}

/// Position of `<image>` within a question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImagePosition {
    /// As in the record, like NeMo.
    #[default]
    Keep,
    /// At the front, on a line of its own, like LLaVA's training code.
    Front,
}

/// A list of validated conversations.
#[derive(Debug)]
pub struct LlavaDataset {
    records: Vec<Record>,
    template: &'static Template,
    tokenizer: Arc<Tokenizer>,
    processor: ImageProcessor,
}

impl LlavaDataset {
    /// Reads and validates all records.
    ///
    /// # Errors
    /// Returns one error that lists the problems of all records: see [`Problem`].
    pub fn load(config: &LlavaJsonConfig, tokenizer: Arc<Tokenizer>, processor: ImageProcessor) -> Result<Self, DataError> {
        let template = Template::named(&config.template)?;
        let mut records = Vec::new();
        let mut problems = Vec::new();
        for path in &config.paths {
            let folder = config.image_folder.as_deref().or(path.parent()).unwrap_or(Path::new(""));
            let file: Arc<str> = path.display().to_string().into();
            let outcome = each_record(path, |index, value| {
                let mut report = |id: Option<&str>, field, reason| {
                    let id = id.map(str::to_owned);
                    problems.push(Problem {
                        file: Arc::clone(&file),
                        record: Some(index),
                        id,
                        field,
                        reason,
                    });
                };
                if let Some(mut record) = Record::check(value, folder, template, config.reads_images, true, &mut report) {
                    if config.image_token_position == ImagePosition::Front {
                        record.conversation.move_images_to_front();
                    }
                    record.name = format!("{file}#{index}{}", record.name);
                    records.push(record);
                }
            });
            if let Err(reason) = outcome {
                problems.push(Problem {
                    file,
                    record: None,
                    id: None,
                    field: None,
                    reason,
                });
            }
        }
        if problems.is_empty() && records.is_empty() {
            return Err(DataError::NoRecords {
                paths: config.paths.clone(),
            });
        }
        if !problems.is_empty() {
            return Err(DataError::Records { problems });
        }
        Ok(Self {
            records,
            template,
            tokenizer,
            processor,
        })
    }

    /// Validates the first records of each file, within its first few megabytes, so that a launcher can do it before a
    /// run starts. Pipes are skipped, because they can be read only once, by the run.
    ///
    /// # Errors
    /// Returns the errors of [`load`](Self::load) that these records show.
    pub fn check_first(config: &LlavaJsonConfig) -> Result<(), DataError> {
        let template = Template::named(&config.template)?;
        let (mut problems, mut records) = (Vec::new(), 0);
        for path in &config.paths {
            if path.metadata().is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir()) {
                records += 1;
                continue;
            }
            let folder = config.image_folder.as_deref().or(path.parent()).unwrap_or(Path::new(""));
            let file: Arc<str> = path.display().to_string().into();
            let outcome = first_records(path, |index, value| {
                records += 1;
                let mut report = |id: Option<&str>, field, reason| {
                    let id = id.map(str::to_owned);
                    problems.push(Problem {
                        file: Arc::clone(&file),
                        record: Some(index),
                        id,
                        field,
                        reason,
                    });
                };
                Record::check(value, folder, template, config.reads_images, true, &mut report);
            });
            if let Err(reason) = outcome {
                problems.push(Problem {
                    file,
                    record: None,
                    id: None,
                    field: None,
                    reason,
                });
            }
        }
        if !problems.is_empty() {
            return Err(DataError::Records { problems });
        }
        if records == 0 {
            return Err(DataError::NoRecords {
                paths: config.paths.clone(),
            });
        }
        Ok(())
    }

    fn record(&self, index: usize) -> Result<&Record, DataError> {
        self.records.get(index).ok_or(DataError::Index { index, len: self.len() })
    }

    /// Returns the sample at `index`. `load` turns each image file into pixels.
    fn sample(&self, index: usize, load: impl Fn(&PathBuf) -> Result<Pixels, DataError>) -> Result<Sample, DataError> {
        let record = self.record(index)?;
        let prompt = render(self.template, &record.conversation)?;
        let encoded = self.tokenizer.encode_prompt(&prompt)?;
        Ok(Sample {
            name: record.name.clone(),
            ids: encoded.ids,
            labels: encoded.labels,
            images: record.images.iter().map(load).collect::<Result<_, _>>()?,
        })
    }
}

impl Dataset for LlavaDataset {
    fn len(&self) -> usize {
        self.records.len()
    }

    fn get(&self, index: usize) -> Result<Sample, DataError> {
        self.sample(index, |path| RgbImage::open(path).map(|image| self.processor.process(&image)))
    }

    fn get_without_pixels(&self, index: usize) -> Result<Sample, DataError> {
        // The number of positions of an image does not depend on its size, so the file is not read.
        let (height, width) = self.processor.output_size().unwrap_or_default();
        self.sample(index, |_| Ok(Pixels::empty(height, width)))
    }

    fn name(&self, index: usize) -> String {
        self.record(index)
            .map_or_else(|error| error.to_string(), |record| record.name.clone())
    }
}

/// Limits of [`LlavaDataset::check_first`] for each file: number of records and number of bytes.
const FIRST_RECORDS: usize = 64;
const FIRST_BYTES: u64 = 4 << 20;

/// Calls `visit` with each element of the list in a file, one at a time, so that a file of 665,000 records is never in
/// memory as a whole.
fn each_record(path: &Path, mut visit: impl FnMut(usize, &Value)) -> Result<(), String> {
    let file = File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    let mut json = serde_json::Deserializer::from_reader(BufReader::new(file));
    let list = List(|index, value: &Value| {
        visit(index, value);
        true
    });
    json.deserialize_seq(list).and_then(|()| json.end()).map_err(reason)
}

/// Does the same as [`each_record`] for the first records only.
fn first_records(path: &Path, mut visit: impl FnMut(usize, &Value)) -> Result<(), String> {
    let file = File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    let is_longer = file.metadata().is_ok_and(|metadata| metadata.len() > FIRST_BYTES);
    let mut json = serde_json::Deserializer::from_reader(BufReader::new(file.take(FIRST_BYTES)));
    let mut stopped = false;
    let list = List(|index, value: &Value| {
        visit(index, value);
        stopped = index + 1 == FIRST_RECORDS;
        !stopped
    });
    match json.deserialize_seq(list) {
        // serde_json reports an error if a visitor stops in the middle of a list.
        _ if stopped => Ok(()),
        Err(error) if is_longer && error.is_eof() => Ok(()),
        Ok(()) => json.end().map_err(reason),
        Err(error) => Err(reason(error)),
    }
}

/// Visitor that passes the items of a list to its function until the function returns `false`.
struct List<F>(F);

impl<'de, F: FnMut(usize, &Value) -> bool> Visitor<'de> for List<F> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list of records, `[{\"conversations\": ..}, ..]`")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        let mut index = 0;
        while let Some(value) = list.next_element::<Value>()? {
            if !self.0(index, &value) {
                break;
            }
            index += 1;
        }
        Ok(())
    }
}

fn reason(error: serde_json::Error) -> String {
    match error.classify() {
        serde_json::error::Category::Data => error.to_string(),
        serde_json::error::Category::Io => format!("cannot be read: {error}"),
        _ => format!("is not JSON: {error}"),
    }
}

impl LlavaJsonConfig {
    /// Validates one record for [`Probe`](crate::Probe), but not that its image files exist. Reports every problem with id,
    /// field and reason; without one, returns images and conversation as [`LlavaDataset`] has them.
    pub(crate) fn check_record(
        &self,
        value: &Value,
        folder: &Path,
        template: &Template,
        report: &mut dyn FnMut(Option<&str>, Option<&'static str>, String),
    ) -> Option<(Vec<PathBuf>, crate::template::Conversation)> {
        let mut record = Record::check(value, folder, template, self.reads_images, false, report)?;
        if self.image_token_position == ImagePosition::Front {
            record.conversation.move_images_to_front();
        }
        Some((record.images, record.conversation))
    }
}
