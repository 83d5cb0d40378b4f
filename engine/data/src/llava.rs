//! Conversations about images in LLaVA's JSON format (NeMo's `NevaPreloadedDataModule`).
//!
//! ```json
//! [{"id": 7, "image": "cat.jpg", "conversations": [{"from": "human", "value": "<image>\nWhat is it?"},
//!                                                  {"from": "gpt", "value": "A cat."}]}]
//! ```
//!
//! ShareGPT's and OpenAI's forms are read, too (`messages.rs`), and what LLaVA's own loader takes ([`RecordCounts`]).
//! Loading checks every record of every file, including that the image files exist, so that problems are reported
//! before the first step. Records stay in their files ([`RecordFile`]): a record is parsed when its sample is read, and an
//! image is decoded when its sample is read with pixels.

mod counts;
mod dialogue;
mod fields;
mod loading;
mod messages;
mod record;
mod roles;
mod source;
mod steerlm;

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Deserialize;
use serde_json::Value;

use crate::{
    error::DataError,
    image::{ImageProcessor, ImageSource, repeat_placeholders},
    record_file::{Form, RecordFile},
    sample::{Dataset, Pixels, Sample},
    skip_list::SkipList,
    template::ChatTemplate,
    tokenizer::Tokenizer,
};
pub use counts::RecordCounts;
use loading::Found;
use record::{Record, Report};
pub(crate) use source::NOT_LISTED;
use source::RecordSource;

/// Settings of a [`LlavaDataset`].
#[derive(Clone, Debug, PartialEq)]
pub struct LlavaJsonConfig {
    /// Files of records: `.jsonl` has one record a line, any other file is a JSON list. Their records are concatenated in
    /// this order.
    pub paths: Vec<PathBuf>,
    /// Folder that the records' image paths are relative to, or a `.tar` file. `None`: the folder of the JSON file.
    pub image_folder: Option<PathBuf>,
    /// Turns images upright by their EXIF orientation.
    pub apply_exif: bool,
    /// The conversation template.
    pub template: ChatTemplate,
    /// Position of `<image>` within a question.
    pub image_token_position: ImagePosition,
    /// True if the model reads images; otherwise a record with an image is a problem.
    pub reads_images: bool,
}

impl LlavaJsonConfig {
    /// Returns the function from a record file to the source of its images. The names in a `.tar` file are read here, once
    /// for all record files.
    ///
    /// # Errors
    /// The `.tar` file cannot be read.
    pub(crate) fn images(&self) -> Result<impl Fn(&Path) -> Arc<ImageSource>, DataError> {
        let shared = match &self.image_folder {
            // A folder that is missing is reported with the first image.
            Some(archive) if archive.is_file() => Some(ImageSource::open(archive)?),
            Some(folder) => Some(ImageSource::folder(folder)),
            None => None,
        };
        let apply_exif = self.apply_exif;
        let shared = shared.map(|source| Arc::new(source.with_exif(apply_exif)));
        Ok(move |path: &Path| {
            let beside = || ImageSource::folder(path.parent().unwrap_or(Path::new(""))).with_exif(apply_exif);
            shared.clone().unwrap_or_else(|| Arc::new(beside()))
        })
    }

    /// Validates a record of a file of this form. Reports every problem with id, field and reason, and returns `None` if
    /// there is any. Image files must exist if `finds_files`.
    pub(crate) fn check_record(
        &self,
        value: Value,
        form: Form,
        images: &Arc<ImageSource>,
        finds_files: bool,
        report: Report<'_>,
    ) -> Option<Record> {
        let value = match form {
            Form::List => value,
            Form::Lines => steerlm::to_llava(value, |name| images.contains(name))
                .map_err(|(field, reason)| report(None, Some(field), reason))
                .ok()?,
        };
        let mut record = Record::check(&value, images, &self.template, self.reads_images, finds_files, report)?;
        if self.image_token_position == ImagePosition::Front {
            record.conversation.move_images_to_front();
        }
        Some(record)
    }
}

/// Position of `<image>` within a question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImagePosition {
    /// As in the record, like NeMo.
    #[default]
    Keep,
    /// At the front, on a line of its own, like LLaVA's training code. Nothing follows if the question has no other text.
    Front,
}

/// How files are read, and what happens to broken samples. The default saves no index and fails.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Folder of saved indices, usually [`RecordFile::cache_folder`]. `None`: a file is scanned each time.
    pub cache: Option<PathBuf>,
    /// Policy for broken samples.
    pub broken: Broken,
    /// Records that are left out.
    pub skip_list: Option<Arc<SkipList>>,
}

/// Policy for broken samples: records that are invalid, images that are missing or cannot be decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Broken {
    /// A broken record is an error of loading, a broken image one of reading its sample.
    #[default]
    Fail,
    /// Broken records are only listed in [`LlavaDataset::broken`], for [`SkipBroken`](crate::SkipBroken), as long as there
    /// are no more than this. Reading without pixels decodes images, too, so that all ranks find the same ones broken.
    Skip(usize),
}

/// A list of conversations in files.
#[derive(Debug)]
pub struct LlavaDataset {
    files: Vec<RecordSource>,
    len: usize,
    config: LlavaJsonConfig,
    decodes_always: bool,
    broken: Vec<usize>,
    warnings: Vec<String>,
    counts: RecordCounts,
    tokenizer: Arc<Tokenizer>,
    processor: ImageProcessor,
}

impl LlavaDataset {
    /// Reads and validates all records, as [`open`](Self::open) does with the default [`Reading`].
    ///
    /// # Errors
    /// Returns one error that lists the problems of all records: see [`Problem`](crate::Problem).
    pub fn load(config: &LlavaJsonConfig, tokenizer: Arc<Tokenizer>, processor: ImageProcessor) -> Result<Self, DataError> {
        Self::open(config, &Reading::default(), tokenizer, processor)
    }

    /// Opens the files and validates all records.
    ///
    /// # Errors
    /// Returns one error that lists the problems of all files and records: see [`Problem`](crate::Problem). A file that is
    /// not a list of records, and an image folder that is missing or has none of the images, are errors under every policy.
    pub fn open(
        config: &LlavaJsonConfig,
        reading: &Reading,
        tokenizer: Arc<Tokenizer>,
        processor: ImageProcessor,
    ) -> Result<Self, DataError> {
        let mut found = Found::default();
        let images = config.images()?;
        let mut files = Vec::with_capacity(config.paths.len());
        let mut len = 0;
        for path in &config.paths {
            let file = RecordFile::open(path, reading.cache.as_deref())
                .and_then(|file| RecordSource::new(file, images(path), &reading.skip_list, len));
            match file {
                Ok(file) => {
                    found.check(&file, config)?;
                    len += file.len();
                    files.push(file);
                }
                Err(problem) => found.fail(problem),
            }
        }
        let counts = found.counts();
        let (broken, mut warnings) = found.judge(reading.broken, len, config)?;
        warnings.extend(counts.sentences());
        Ok(Self {
            files,
            len,
            config: config.clone(),
            decodes_always: matches!(reading.broken, Broken::Skip(_)),
            broken,
            warnings,
            counts,
            tokenizer,
            processor,
        })
    }

    /// Validates the first records of each file, within its first few megabytes, so that a launcher can do it before a
    /// run starts. Pipes are skipped, because they can be read only once, by the run. Under [`Broken::Skip`], broken records
    /// are left to the run, which counts them.
    ///
    /// # Errors
    /// Returns the errors of [`open`](Self::open) that these records show.
    pub fn check_first(config: &LlavaJsonConfig, broken: Broken) -> Result<(), DataError> {
        let images = config.images()?;
        let (mut found, mut len) = (Found::default(), 0);
        for path in &config.paths {
            if path.metadata().is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir()) {
                len += 1;
                continue;
            }
            let file = RecordFile::open_first(path, FIRST_BYTES).and_then(|file| RecordSource::new(file, images(path), &None, len));
            match file {
                Ok(file) => {
                    found.check_records(&file, config, 0..file.file_len().min(FIRST_RECORDS))?;
                    len += file.len();
                }
                Err(problem) => found.fail(problem),
            }
        }
        if matches!(broken, Broken::Skip(_)) {
            found.forget_records();
        }
        found.judge(Broken::Fail, len, config).map(drop)
    }

    /// Returns the numbers of records that are taken with a change.
    #[must_use]
    pub fn counts(&self) -> RecordCounts {
        self.counts
    }

    /// Returns the indices of the broken records that loading found, under [`Broken::Skip`].
    #[must_use]
    pub fn broken(&self) -> &[usize] {
        &self.broken
    }

    /// Returns sentences about the data for the log.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Returns the dataset indices of each file's records.
    #[must_use]
    pub fn file_ranges(&self) -> Vec<Range<u64>> {
        let range = |file: &RecordSource| file.first() as u64..(file.first() + file.len()) as u64;
        self.files.iter().map(range).collect()
    }

    /// Returns the file of the record at `index`, and its index in the file.
    fn place(&self, index: usize) -> Result<(&RecordSource, usize), DataError> {
        let file = self.files.partition_point(|file| file.first() <= index).checked_sub(1);
        let file = file.and_then(|file| self.files.get(file)).filter(|_| index < self.len);
        let file = file.ok_or(DataError::Index { index, len: self.len })?;
        Ok((file, file.record_index(index - file.first())))
    }

    /// Reads the record at `index`.
    fn record(&self, index: usize) -> Result<Record, DataError> {
        let (file, record) = self.place(index)?;
        let mut problems = Vec::new();
        let value = file.value(record)?;
        if let Some(record) = file.check(record, value, &self.config, &mut problems) {
            return Ok(record);
        }
        file.require_folder(&problems)?;
        Err(DataError::Records { problems })
    }

    /// Returns the sample at `index`. `load` turns each image into the inputs of the vision encoder, one or several tiles.
    fn sample(&self, index: usize, load: impl Fn(&ImageSource, &str) -> Result<Vec<Pixels>, DataError>) -> Result<Sample, DataError> {
        let record = self.record(index)?;
        let prompt = self.config.template.render(&record.conversation)?;
        let mut encoded = self.tokenizer.encode_prompt(&prompt)?;
        let load = |name: &String| load(&record.source, name);
        let tiles = record.images.iter().map(load).collect::<Result<Vec<_>, _>>()?;
        let counts: Vec<usize> = tiles.iter().map(Vec::len).collect();
        repeat_placeholders(&mut encoded.ids, &mut encoded.labels, &counts);
        Ok(Sample {
            name: record.name.clone(),
            ids: encoded.ids,
            labels: encoded.labels,
            images: tiles.into_iter().flatten().collect(),
        })
    }
}

impl Dataset for LlavaDataset {
    fn len(&self) -> usize {
        self.len
    }

    fn get(&self, index: usize) -> Result<Sample, DataError> {
        self.sample(index, |source, name| {
            source.image(name).map(|image| self.processor.process_tiles(&image))
        })
    }

    fn get_without_pixels(&self, index: usize) -> Result<Sample, DataError> {
        // The number of positions of a tile does not depend on the image, so the file is not read, unless it matters
        // whether it is broken. The number of tiles depends on the image's size.
        let (height, width) = self.processor.output_size().unwrap_or_default();
        self.sample(index, |source, name| {
            let image = self.decodes_always.then(|| source.image(name)).transpose()?;
            let tiles = match (self.processor.tiling, image) {
                (None, _) => 1,
                (Some(_), Some(image)) => self.processor.num_tiles(image.width, image.height),
                (Some(_), None) => source.size(name).map(|(width, height)| self.processor.num_tiles(width, height))?,
            };
            Ok(vec![Pixels::empty(height, width); tiles])
        })
    }

    fn identity(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for file in &self.files {
            file.identify(&mut hasher);
        }
        for index in &self.broken {
            hasher.update(&(*index as u64).to_le_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    fn name(&self, index: usize) -> String {
        match self.place(index) {
            Ok((file, record)) => file.record_name(record),
            Err(error) => error.to_string(),
        }
    }
}

/// Limits of [`LlavaDataset::check_first`] for each file: number of records and number of bytes.
const FIRST_RECORDS: usize = 64;
const FIRST_BYTES: usize = 4 << 20;
