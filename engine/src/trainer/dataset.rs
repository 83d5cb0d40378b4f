//! The dataset that a run names, and the files that belong to it.

use crate::checkpoint::Artifacts;
use crate::error::{EngineError, Result};
use neva_data::{Dataset, ImagePosition, ImageProcessor, LlavaConfig, LlavaDataset, MockConfig, MockDataset, ProcessMode, Tokenizer};
use neva_schemas::{Data, Finetune, ImageProcessMode, ImageTokenPosition, LlavaModel, NevaPreloadedDataModule, Problem};
use std::path::Path;
use std::sync::Arc;

/// A dataset, and what a checkpoint keeps of how it was read.
pub struct TrainData {
    /// The samples.
    pub dataset: Arc<dyn Dataset>,
    /// Tokenizer and image processor, as files.
    pub artifacts: Artifacts,
}

/// Opens the dataset of a run. `base` is the Hugging Face folder that the weights come from, if they do.
///
/// # Errors
/// The data is not there or is wrong, or does not fit the model.
pub fn train_data(finetune: &Finetune, base: Option<&Path>) -> Result<TrainData> {
    let model = finetune.model.llava();
    match &finetune.data {
        Data::Mock(mock) => {
            let config = MockConfig {
                seq_length: mock.seq_length,
                image_seq_len: model.image_seq_length(),
                images_per_sample: 1,
                vocab_size: model.text_config.vocab_size as u64,
                image_height: model.vision_config.image_size,
                image_width: model.vision_config.image_size,
                num_samples: usize::try_from(mock.num_train_samples).unwrap_or(usize::MAX),
                seed: mock.seed,
            };
            Ok(TrainData {
                dataset: Arc::new(MockDataset::new(config)?),
                artifacts: Artifacts::new(),
            })
        }
        Data::Preloaded(data) => preloaded(data, model, base),
    }
}

fn preloaded(data: &NevaPreloadedDataModule, model: &LlavaModel, base: Option<&Path>) -> Result<TrainData> {
    let address = match (&data.tokenizer, base) {
        (Some(address), _) => address.clone(),
        (None, Some(folder)) => folder.display().to_string(),
        (None, None) => {
            return Err(EngineError::Run(vec![
                Problem::error(
                    "finetune.data.tokenizer",
                    "no tokenizer is named, and the run starts from no model folder that would have one",
                )
                .help("name a folder with tokenizer.json, or `builtin:mistral_2k`"),
            ]));
        }
    };
    let tokenizer = Tokenizer::open(&address)?.with_bos(data.add_bos);
    if tokenizer.vocab_size() > model.text_config.vocab_size {
        let (tokens, rows) = (tokenizer.vocab_size(), model.text_config.vocab_size);
        return Err(EngineError::Run(vec![Problem::error(
            "finetune.model.text_config.vocab_size",
            format!("the tokenizer {address} has {tokens} tokens, the embedding only {rows} rows"),
        )]));
    }
    let mut artifacts = tokenizer.files();
    let mode = process_mode(data.data_config.image_process_mode);
    let edge = model.vision_config.image_size;
    let processor = match &data.image_processor {
        Some(path) => {
            let file = if path.is_dir() {
                path.join("preprocessor_config.json")
            } else {
                path.clone()
            };
            artifacts.push((
                "preprocessor_config.json".into(),
                std::fs::read(&file).map_err(EngineError::io("read", &file))?,
            ));
            ImageProcessor::open(&file)?
        }
        None => ImageProcessor::clip(edge),
    }
    .with_mode(mode);
    if processor.output_size() != Some((edge, edge)) {
        let size = processor
            .output_size()
            .map_or("of varying size".to_owned(), |(height, width)| format!("of {height} x {width}"));
        return Err(EngineError::Run(vec![
            Problem::error(
                "finetune.data",
                format!("pictures would be {size}, the vision encoder takes {edge} x {edge}"),
            )
            .help("use image_process_mode pad or square, and an image processor of the encoder's size"),
        ]));
    }
    let config = LlavaConfig {
        paths: data.paths.clone(),
        image_folder: data.data_config.image_folder.clone(),
        template: data.data_config.conv_template.clone(),
        image_token_position: match data.data_config.image_token_position {
            ImageTokenPosition::Keep => ImagePosition::Keep,
            ImageTokenPosition::Front => ImagePosition::Front,
        },
    };
    Ok(TrainData {
        dataset: Arc::new(LlavaDataset::load(&config, Arc::new(tokenizer), processor)?),
        artifacts,
    })
}

/// The data crate's word for a mode.
pub(crate) fn process_mode(mode: ImageProcessMode) -> ProcessMode {
    match mode {
        ImageProcessMode::Pad => ProcessMode::Pad,
        ImageProcessMode::Keep => ProcessMode::Keep,
        ImageProcessMode::Square => ProcessMode::Square,
    }
}
