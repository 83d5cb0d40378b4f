//! The training's own reading of one record: its fields, text, tokens, labels and images. The only place where `check` and
//! `inspect` touch the internals of the dataset.

mod image_ref;
mod source;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use neva_schemas::{ModelDescription, NevaPreloadedDataModule as Settings};
use serde_json::{Value, json};

use super::kind::Kind;
use crate::{
    conversation::Conversation,
    error::DataError,
    image::{ImageProcessor, RgbImage, repeat_placeholders},
    llava::{LlavaJsonConfig, RecordCounts},
    merge::{MergeOptions, merge},
    preloaded::PreloadedTools,
    prompt::Prompt,
    sample::{IMAGE_TOKEN_INDEX, Pixels, Sample},
    skip_list::SkipList,
    tokenizer::{Encoded, Tokenizer},
};
pub(crate) use image_ref::ImageRef;
pub(crate) use source::Source;

/// Reads records as a run does.
#[derive(Debug)]
pub struct Probe {
    settings: Settings,
    config: LlavaJsonConfig,
    tokenizer: Arc<Tokenizer>,
    processor: ImageProcessor,
    /// Number of positions of an image.
    image_seq_len: usize,
    /// Everything besides the data files that a result depends on.
    key: String,
    /// The part of it that lengths depend on.
    length_key: String,
}

/// A record as the training reads it.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub(crate) id: Option<String>,
    /// Images and conversation; `None` if there are problems.
    pub(crate) content: Option<(Vec<ImageRef>, Conversation)>,
    pub(crate) problems: Vec<(Kind, Option<String>, String)>,
    /// 1 for each change with which the training takes the record.
    pub(crate) counts: RecordCounts,
}

/// Numbers of positions and labels of a sample. Positions are those of the sequence that the model gets, with all positions
/// of its images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lengths {
    /// Number of positions before the cut.
    pub(crate) positions: usize,
    /// Number of these that are of images.
    pub(crate) image_positions: usize,
    /// Number of labels before the cut.
    pub(crate) labels: usize,
    /// Number of labels that the cut leaves.
    pub(crate) kept_labels: usize,
}

impl Probe {
    /// Creates the probe of the data `settings` of a run that trains `model`.
    #[must_use]
    pub fn new(settings: &Settings, model: &ModelDescription, tools: PreloadedTools) -> Self {
        let image_seq_len = model.image_seq_length();
        let config = &settings.data_config;
        let files: Vec<_> = tools
            .files
            .iter()
            .map(|(name, content)| (name, blake3::hash(content).to_hex().to_string()))
            .collect();
        let key = json!([
            env!("CARGO_PKG_VERSION"),
            settings,
            image_seq_len,
            model.vision.is_some(),
            files,
            tools.processor_origin.to_string(),
            settings
                .skip_list
                .as_ref()
                .map(|path| std::fs::read(path).ok().map(|list| blake3::hash(&list).to_hex().to_string()))
        ]);
        let texts = (
            &config.conv_template,
            &config.conversation_template_config,
            config.image_token_position,
            config.image_text_tokenization,
            settings.add_bos,
        );
        let length_key = json!([
            texts,
            image_seq_len,
            files.iter().filter(|(name, _)| name.starts_with("tokenizer")).collect::<Vec<_>>()
        ]);
        Self {
            length_key: blake3::hash(length_key.to_string().as_bytes()).to_hex().to_string(),
            config: LlavaJsonConfig::from_settings(settings, model, tools.template, &settings.paths),
            settings: settings.clone(),
            tokenizer: tools.tokenizer,
            processor: tools.processor,
            image_seq_len,
            key: key.to_string(),
        }
    }

    /// Opens the data files: those for training, then those for validation. `indices` is the folder of saved indices.
    ///
    /// # Errors
    /// The `.tar` file of the images, or the skip list of the recipe, cannot be read.
    pub(crate) fn sources(&self, indices: Option<&Path>) -> Result<Vec<Source>, DataError> {
        let images = self.config.images()?;
        let skip_list = self.settings.skip_list.as_deref().map(SkipList::read).transpose()?;
        let source = |path: &PathBuf, is_validation| Source::open(path, images(path), is_validation, skip_list.as_ref(), indices);
        let train = self.settings.paths.iter().map(|path| source(path, false));
        Ok(train.chain(self.settings.val_paths.iter().map(|path| source(path, true))).collect())
    }

    /// Reads a record of the file at `source`.
    pub(crate) fn parse(&self, source: &Source, value: Value) -> Parsed {
        let mut problems = Vec::new();
        let mut report = |_: Option<&str>, field: Option<&'static str>, reason: String| {
            problems.push((kind(field, &reason), field.map(str::to_owned), reason));
        };
        let id = match value.get("id") {
            None | Some(Value::Null) => None,
            Some(Value::String(id)) => Some(id.clone()),
            Some(other) => Some(other.to_string()),
        };
        let record = self.config.check_record(value, source.form(), &source.images, false, &mut report);
        let counts = record.as_ref().map_or_else(RecordCounts::default, |record| record.counts);
        let content = record.map(|record| {
            let images = record.images.into_iter().map(|name| ImageRef::new(&source.images, name));
            (images.collect(), record.conversation)
        });
        Parsed {
            id,
            content,
            problems,
            counts,
        }
    }

    /// Returns the text of a conversation with its tokens and labels.
    ///
    /// # Errors
    /// Returns the kind of the problem and its description.
    pub(crate) fn encode(&self, conversation: &Conversation) -> Result<(Prompt, Encoded), (Kind, String)> {
        let template = &self.config.template;
        let prompt = template.render(conversation).map_err(|error| (Kind::Template, error.to_string()))?;
        let encoded = self
            .tokenizer
            .encode_prompt(&prompt)
            .map_err(|error| (Kind::Tokens, error.to_string()))?;
        Ok((prompt, encoded))
    }

    /// Returns the number of tiles of an image whose width and height are known from a check.
    pub(crate) fn num_tiles(&self, image: &ImageRef, known: Option<(usize, usize)>) -> usize {
        if self.processor.tiling.is_none() {
            return 1;
        }
        // The check knows sizes as they are stored.
        let size = known.filter(|_| !self.config.apply_exif).or_else(|| image.size());
        size.map_or(1, |(width, height)| self.processor.num_tiles(width, height))
    }

    /// Returns the lengths of a sample whose images have these numbers of tiles, as the training cuts it.
    ///
    /// # Errors
    /// Returns the reason for which the training refuses the sample.
    pub(crate) fn lengths(&self, encoded: Encoded, tiles: &[usize]) -> Result<Lengths, String> {
        lengths_of(encoded, tiles, self.image_seq_len, self.seq_length())
    }

    /// Returns the images that the vision encoder gets of one image, before normalization.
    pub(crate) fn process(&self, image: &RgbImage) -> Vec<RgbImage> {
        self.processor.tiles(image)
    }

    /// Returns the text of token ids, special tokens included.
    pub(crate) fn decode_tokens(&self, ids: &[i64]) -> String {
        self.tokenizer.decode(ids, false).unwrap_or_default()
    }

    /// Returns the maximum number of positions of a sample.
    pub(crate) fn seq_length(&self) -> usize {
        self.settings.seq_length.max(1)
    }

    /// Returns the number of positions of an image.
    pub(crate) fn image_seq_len(&self) -> usize {
        self.image_seq_len
    }

    /// Returns the name of the conversation template.
    pub(crate) fn template(&self) -> &str {
        self.config.template.name()
    }

    /// Returns the address of the tokenizer; `None` if it is that of the model.
    pub(crate) fn tokenizer_name(&self) -> Option<&str> {
        self.settings.tokenizer.as_deref()
    }

    /// Returns the hash of the settings that lengths depend on: tokenizer, template, positions of an image.
    pub(crate) fn length_key(&self) -> String {
        self.length_key.clone()
    }

    /// Returns everything besides the data files that a result depends on.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }
}

/// Returns the lengths of a sample whose images have these numbers of tiles, as the training cuts it.
///
/// # Errors
/// Returns the reason for which the training refuses the sample.
pub(crate) fn lengths_of(mut encoded: Encoded, tiles: &[usize], image_seq_len: usize, seq_length: usize) -> Result<Lengths, String> {
    repeat_placeholders(&mut encoded.ids, &mut encoded.labels, tiles);
    let num_images = encoded.ids.iter().filter(|&&id| id == IMAGE_TOKEN_INDEX).count();
    let sample = Sample {
        name: String::new(),
        ids: encoded.ids,
        labels: encoded.labels,
        images: vec![Pixels::empty(0, 0); num_images],
    };
    let sequence = sample.sequence();
    let images = sequence.ids.iter().filter(|&&id| id == IMAGE_TOKEN_INDEX).count();
    let image_positions = images.saturating_mul(image_seq_len);
    let positions = sequence.ids.len() - images + image_positions;
    let merged = |max_length| {
        let options = MergeOptions {
            image_seq_len,
            max_length,
            row_multiple: 1,
            fixed_length: false,
            packed: false,
        };
        let batch = merge(&[sequence], &options).map_err(|error| error.to_string())?;
        Ok::<_, String>(batch.total_labels())
    };
    let labels = if positions == 0 { 0 } else { merged(positions)? };
    let kept_labels = if positions <= seq_length { labels } else { merged(seq_length)? };
    Ok(Lengths {
        positions,
        image_positions,
        labels,
        kept_labels,
    })
}

/// Returns the kind of a problem that the dataset reports.
fn kind(field: Option<&str>, reason: &str) -> Kind {
    const TEXTS: &[(&str, Kind)] = &[
        ("must be {\"from\"", Kind::Message),
        ("must alternate", Kind::Roles),
        ("must be an object", Kind::NotAnObject),
        ("there is no file", Kind::ImageMissing),
        ("no vision encoder", Kind::ImageUnwanted),
        ("image(s), but the text has", Kind::ImageCount),
        ("must be a file name", Kind::ImageField),
        ("cannot render", Kind::Template),
        ("role", Kind::Roles),
        ("starts with an answer", Kind::Roles),
        ("no answer", Kind::Roles),
        ("no question", Kind::Roles),
        ("message ", Kind::Message),
    ];
    let known = TEXTS.iter().find(|(text, _)| reason.contains(text));
    known.map_or_else(
        || match field {
            None => Kind::NotAnObject,
            Some("image" | "images") => Kind::ImageField,
            Some("conversations" | "conversation" | "messages") => Kind::Conversations,
            Some(_) => Kind::Field,
        },
        |(_, kind)| *kind,
    )
}
