//! The data that a run names, and the files that belong to it.

use crate::checkpoint::Artifacts;
use crate::error::{EngineError, Result};
use neva_data::{
    Dataset, ImagePosition, ImageProcessor, LlavaConfig, LlavaDataset, MockConfig, MockDataset, ProcessMode, Subset, Tokenizer, split,
};
use neva_schemas::{Finetune, ImageProcessMode, ImageTokenPosition, LlavaModel, MockDataModule, NevaPreloadedDataModule, Problem};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The samples of a run, and what a checkpoint keeps of how they were read.
pub struct RunData {
    /// To train on.
    pub train: Arc<dyn Dataset>,
    /// To validate on, where the run has such.
    pub val: Option<Arc<dyn Dataset>>,
    /// Tokenizer and image processor, as files.
    pub artifacts: Artifacts,
}

/// Where the samples of a run come from.
///
/// A type of one's own is registered with [`Registry::data`](super::Registry::data); a recipe then names it as the
/// `_target_` of `finetune.data`. How samples are ordered and cut into batches is not its affair.
pub trait DataModule {
    /// Opens the data; every rank does so, and gets the same samples under the same numbers. `base` is the folder that
    /// the weights come from, where there is one.
    ///
    /// # Errors
    /// The data is not there or is wrong, or does not fit the model.
    fn open(&self, finetune: &Finetune, base: Option<&Path>) -> Result<RunData>;
}

impl DataModule for MockDataModule {
    fn open(&self, finetune: &Finetune, _: Option<&Path>) -> Result<RunData> {
        let model = finetune.model.llava();
        let config = MockConfig {
            seq_length: self.sample_length(),
            image_seq_len: model.image_seq_length(),
            images_per_sample: 1,
            vocab_size: model.text_config.vocab_size as u64,
            image_height: model.vision_config.image_size,
            image_width: model.vision_config.image_size,
            num_samples: usize::try_from(self.num_train_samples).unwrap_or(usize::MAX),
            seed: self.seed,
        };
        let held_out = usize::try_from(self.num_val_samples).unwrap_or(usize::MAX);
        Ok(RunData {
            val: Some(Arc::new(MockDataset::validation(config.clone(), held_out)?)),
            train: Arc::new(MockDataset::new(config)?),
            artifacts: Artifacts::new(),
        })
    }
}

impl DataModule for NevaPreloadedDataModule {
    fn open(&self, finetune: &Finetune, base: Option<&Path>) -> Result<RunData> {
        preloaded(self, finetune.model.llava(), base)
    }
}

fn preloaded(data: &NevaPreloadedDataModule, model: &LlavaModel, base: Option<&Path>) -> Result<RunData> {
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
    let tokenizer = Tokenizer::open(&address)?.with_bos(data.add_bos.unwrap_or(true));
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
    let tokenizer = Arc::new(tokenizer);
    let load = |paths: &[PathBuf]| -> Result<Arc<dyn Dataset>> {
        let config = LlavaConfig {
            paths: paths.to_vec(),
            image_folder: data.data_config.image_folder.clone(),
            template: data.data_config.conv_template.clone(),
            image_token_position: match data.data_config.image_token_position {
                ImageTokenPosition::Keep => ImagePosition::Keep,
                ImageTokenPosition::Front => ImagePosition::Front,
            },
        };
        Ok(Arc::new(LlavaDataset::load(&config, tokenizer.clone(), processor.clone())?))
    };
    let all = load(&data.paths)?;
    let (train, val) = if data.val_split > 0.0 {
        let cut = split(all.len() as u64, data.val_split, data.seed)?;
        let subset = |indices| Subset::new(all.clone(), indices).map(|subset| Arc::new(subset) as Arc<dyn Dataset>);
        (subset(cut.train)?, Some(subset(cut.val)?))
    } else if data.val_paths.is_empty() {
        (all, None)
    } else {
        (all, Some(load(&data.val_paths)?))
    };
    Ok(RunData { train, val, artifacts })
}

/// The data crate's word for a mode.
pub(crate) fn process_mode(mode: ImageProcessMode) -> ProcessMode {
    match mode {
        ImageProcessMode::Pad => ProcessMode::Pad,
        ImageProcessMode::Keep => ProcessMode::Keep,
        ImageProcessMode::Square => ProcessMode::Square,
    }
}
