//! Conversations about pictures in LLaVA's JSON (NeMo's `NevaPreloadedDataModule`).
//!
//! ```json
//! [{"id": 7, "image": "cat.jpg", "conversations": [{"from": "human", "value": "<image>\nWhat is it?"},
//!                                                  {"from": "gpt", "value": "A cat."}]}]
//! ```
//!
//! Everything that can be known before the first step is checked at load, in every record of every file, whether the
//! pictures exist included; pictures are decoded when a sample is asked for with its pixels.

mod record;

use std::{
    fs::File,
    io::BufReader,
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
    picture::{ImageProcessor, Rgb},
    sample::{Dataset, Pixels, Sample},
    template::{Template, render},
    tokenizer::Tokenizer,
};
use record::Record;

/// Where the conversations are and how they are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LlavaConfig {
    /// JSON files, each a list of records. Their records are concatenated in this order.
    pub paths: Vec<PathBuf>,
    /// What the records' picture paths are relative to; `None`: the folder of the JSON file.
    pub image_folder: Option<PathBuf>,
    /// Name of a conversation template.
    pub template: String,
    /// Where `<image>` goes.
    pub image_token_position: ImagePosition,
}

/// Where `<image>` goes within a question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImagePosition {
    /// Where the record has it, as NeMo does.
    #[default]
    Keep,
    /// To the front, on a line of its own, as LLaVA's training code does.
    Front,
}

/// A checked list of conversations.
#[derive(Debug)]
pub struct LlavaDataset {
    records: Vec<Record>,
    template: &'static Template,
    tokenizer: Arc<Tokenizer>,
    processor: ImageProcessor,
}

impl LlavaDataset {
    /// Reads and checks all records.
    ///
    /// # Errors
    /// One error that lists the problems of all records: see [`Problem`].
    pub fn load(config: &LlavaConfig, tokenizer: Arc<Tokenizer>, processor: ImageProcessor) -> Result<Self, DataError> {
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
                if let Some(mut record) = Record::check(value, folder, template, &mut report) {
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

    fn record(&self, index: usize) -> Result<&Record, DataError> {
        self.records.get(index).ok_or(DataError::Index { index, len: self.len() })
    }

    /// The sample at `index`, whose pictures `picture` makes of their files.
    fn sample(&self, index: usize, picture: impl Fn(&PathBuf) -> Result<Pixels, DataError>) -> Result<Sample, DataError> {
        let record = self.record(index)?;
        let prompt = render(self.template, &record.conversation)?;
        let encoded = self.tokenizer.encode_prompt(&prompt)?;
        Ok(Sample {
            name: record.name.clone(),
            ids: encoded.ids,
            labels: encoded.labels,
            pictures: record.images.iter().map(picture).collect::<Result<_, _>>()?,
        })
    }
}

impl Dataset for LlavaDataset {
    fn len(&self) -> usize {
        self.records.len()
    }

    fn get(&self, index: usize) -> Result<Sample, DataError> {
        self.sample(index, |path| Rgb::open(path).map(|picture| self.processor.process(&picture)))
    }

    fn get_without_pixels(&self, index: usize) -> Result<Sample, DataError> {
        // A picture takes as many positions whatever its size: nothing of the file is needed.
        let (height, width) = self.processor.output_size().unwrap_or_default();
        self.sample(index, |_| Ok(Pixels::left_out(height, width)))
    }

    fn name(&self, index: usize) -> String {
        self.record(index)
            .map_or_else(|error| error.to_string(), |record| record.name.clone())
    }
}

/// Calls `visit` with each element of the list in a file, one at a time: a file of 665,000 records is never held as a
/// tree.
fn each_record(path: &Path, visit: impl FnMut(usize, &Value)) -> Result<(), String> {
    struct List<F>(F);
    impl<'de, F: FnMut(usize, &Value)> Visitor<'de> for List<F> {
        type Value = ();

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a list of records, `[{\"conversations\": ..}, ..]`")
        }

        fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
            let mut index = 0;
            while let Some(value) = list.next_element::<Value>()? {
                self.0(index, &value);
                index += 1;
            }
            Ok(())
        }
    }

    let file = File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    let mut json = serde_json::Deserializer::from_reader(BufReader::new(file));
    json.deserialize_seq(List(visit))
        .and_then(|()| json.end())
        .map_err(|error| match error.classify() {
            serde_json::error::Category::Data => error.to_string(),
            serde_json::error::Category::Io => format!("cannot be read: {error}"),
            _ => format!("is not JSON: {error}"),
        })
}
