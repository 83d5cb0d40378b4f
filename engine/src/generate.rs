//! Greedy decoding of answers from a checkpoint.

use crate::attention::Segments;
use crate::batch::Batch;
use crate::checkpoint::{Base, CheckpointFolder, ModelCache, Sources};
use crate::comm::Mesh;
use crate::error::{EngineError, Result};
use crate::model::Models;
use crate::trainer::{LoadedModel, to_device};
use neva_data::{
    ChatTemplate, Conversation, IGNORE_INDEX, IMAGE_TOKEN, ImageProcessor, MergeOptions, ModelProcessor, RgbImage, Sequence, TextTools,
    Tokenizer, Turn, merge, repeat_placeholders,
};
use neva_layout::unapplied_generation_settings;
use neva_schemas::{Data, Finetune, GenerateRequest, ImageDataConfig, ModelDescription, Problem};
use std::path::{Path, PathBuf};
use tch::{Device, Tensor};

/// Answers the question of `request`.
///
/// # Errors
/// The checkpoint or an image cannot be read, or the numbers of images and `<image>`s differ.
pub fn generate(request: &GenerateRequest, models: &Models, cache: &ModelCache) -> Result<String> {
    let checkpoint = CheckpointFolder::find(&request.checkpoint)?;
    let finetune = &checkpoint.run.finetune;
    let model = finetune.model.description();
    if model.vision.is_none() && !request.images.is_empty() {
        let message = format!("{} has no vision encoder and reads only text", finetune.model.target());
        return Err(EngineError::Run(vec![Problem::error("--image", message).help("leave it out")]));
    }
    let tokenizer_file = checkpoint.path.join("tokenizer.json");
    if !tokenizer_file.is_file() {
        let reason = "holds no tokenizer.json: the data of its run has no text, as mock data".into();
        return Err(EngineError::Content {
            path: checkpoint.path.clone(),
            reason,
        });
    }
    let data_config = match &finetune.data {
        Data::Preloaded(data) => data.data_config.clone(),
        Data::Mock(_) | Data::Custom(_) => ImageDataConfig::default(),
    };
    let add_bos = match &finetune.data {
        Data::Preloaded(data) => data.add_bos,
        Data::Mock(_) | Data::Custom(_) => None,
    };
    let tokenizer = Tokenizer::open(&checkpoint.path.display().to_string())?;
    let TextTools { tokenizer, template } = TextTools::new(&data_config, add_bos, tokenizer)?;
    let processor = processor(&checkpoint, &model, cache)?.with_mode(data_config.image_process_mode.into());

    let open = |path: &PathBuf| {
        if data_config.apply_exif {
            RgbImage::open_upright(path)
        } else {
            RgbImage::open(path)
        }
    };
    let tiles = request
        .images
        .iter()
        .map(|path| Ok(processor.process_tiles(&open(path)?)))
        .collect::<Result<Vec<_>>>()?;
    let counts: Vec<usize> = tiles.iter().map(Vec::len).collect();
    let images: Vec<_> = tiles.into_iter().flatten().collect();
    let mut ids = prompt_ids(request, &template, &tokenizer)?;
    let mut labels = vec![IGNORE_INDEX; ids.len()];
    repeat_placeholders(&mut ids, &mut labels, &counts);
    let sequence = Sequence {
        name: "prompt",
        ids: &ids,
        labels: &labels,
        num_images: images.len(),
    };
    let image_seq_len = model.image_seq_length();
    let room = model.decoder.as_ref().map_or(0, |decoder| decoder.config.max_position_embeddings);
    let tokens = merge(
        &[sequence],
        &MergeOptions {
            image_seq_len,
            max_length: usize::MAX,
            row_multiple: 1,
            fixed_length: false,
            packed: false,
        },
    )?;
    if tokens.s + request.max_new_tokens > room {
        return Err(EngineError::Run(vec![Problem::error(
            "--prompt",
            format!(
                "{} positions and {} new tokens exceed the model's {room}",
                tokens.s, request.max_new_tokens
            ),
        )]));
    }
    let edge = model.image_size();
    let pixels = images.iter().flat_map(|image| image.chw.iter().copied()).collect();
    let batch = neva_data::Batch {
        tokens,
        pixels,
        pixel_shape: [images.len(), 3, edge, edge],
        ..neva_data::Batch::default()
    };

    let base = Base::of(finetune, cache)?;
    if let Some(folder) = base.folder() {
        warn_of_generation_config(&folder.join("generation_config.json"), &tokenizer);
    }
    checkpoint.check_base(&base.reference()?, "--checkpoint")?;
    let sources = Sources {
        checkpoint: Some(&checkpoint),
        adapter: None,
        base: &base,
        cache,
    };
    let loaded = LoadedModel::load(&on_one_rank(finetune), models, sources, &Mesh::single(), Device::Cpu)?;
    let ids = tch::no_grad(|| {
        greedy(
            &loaded,
            to_device(&batch, image_seq_len, Device::Cpu)?,
            request.max_new_tokens,
            |ids| {
                let ended = ids
                    .last()
                    .is_some_and(|last| tokenizer.special().eos.is_some_and(|eos| i64::from(eos) == *last));
                let stops = |text: String| !template.stop().is_empty() && text.ends_with(template.stop());
                ended || tokenizer.decode(ids, false).is_ok_and(stops)
            },
        )
    })?;
    let text = tokenizer.decode(&ids, true)?;
    Ok(text.strip_suffix(template.stop()).unwrap_or(&text).trim().to_owned())
}

/// Returns the run's config for one rank.
fn on_one_rank(finetune: &Finetune) -> Finetune {
    let mut finetune = finetune.clone();
    let strategy = &mut finetune.trainer.strategy;
    (strategy.tensor_model_parallel_size, strategy.context_parallel_size) = (1, 1);
    (strategy.pipeline_model_parallel_size, strategy.virtual_pipeline_model_parallel_size) = (1, None);
    (
        strategy.num_layers_in_first_pipeline_stage,
        strategy.num_layers_in_last_pipeline_stage,
    ) = (None, None);
    strategy.sequence_parallel = false;
    finetune
}

/// Warns about settings of a model's `generation_config.json` that are not applied. The file is optional.
fn warn_of_generation_config(file: &Path, tokenizer: &Tokenizer) {
    let content = std::fs::read(file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let Some(content) = content else { return };
    for sentence in unapplied_generation_settings(&content, tokenizer.special().eos) {
        tracing::warn!("{}: {sentence}", file.display());
    }
}

/// Appends the most likely token until `done` or `max_new_tokens`.
fn greedy(loaded: &LoadedModel, prompt: Batch, max_new_tokens: usize, done: impl Fn(&[i64]) -> bool) -> Result<Vec<i64>> {
    let (model, head) = loaded.whole()?;
    let mut decoding = model.decoding();
    let mut batch = prompt;
    let mut ids = Vec::new();
    while ids.len() < max_new_tokens && !done(&ids) {
        let hidden_bsh = model.decode(&batch, &mut decoding)?;
        let newest_bh = hidden_bsh.select(1, -1);
        let token = head.logits(&newest_bh)?.argmax(-1, false);
        ids.push(token.int64_value(&[0]));
        let none = Tensor::from_slice::<i64>(&[]);
        batch = Batch {
            input_ids_bs: token.unsqueeze(0),
            labels_bs: token.unsqueeze(0),
            segments: Segments::rows(&[1]),
            pixels: None,
            image_positions: none,
            feature_rows: None,
        };
    }
    Ok(ids)
}

/// Returns the token ids of the question. Each image is one placeholder.
fn prompt_ids(request: &GenerateRequest, template: &ChatTemplate, tokenizer: &Tokenizer) -> Result<Vec<i64>> {
    let marks = request.prompt.matches(IMAGE_TOKEN).count();
    let question = if marks == 0 {
        format!("{}{}", format!("{IMAGE_TOKEN}\n").repeat(request.images.len()), request.prompt)
    } else {
        request.prompt.clone()
    };
    if marks > 0 && marks != request.images.len() {
        return Err(EngineError::Run(vec![
            Problem::error(
                "--prompt",
                format!("it has {marks} `{IMAGE_TOKEN}`, but {} images are given", request.images.len()),
            )
            .help("give one --image for each, or omit the marks"),
        ]));
    }
    let conversation = Conversation {
        system: None,
        turns: vec![Turn { question, answer: None }],
    };
    Ok(tokenizer.encode_prompt(&template.render(&conversation)?)?.ids)
}

/// Returns the image processor of the checkpoint, or that of its base.
fn processor(checkpoint: &CheckpointFolder, model: &ModelDescription, cache: &ModelCache) -> Result<ImageProcessor> {
    let kept = ImageProcessor::file_in(&checkpoint.path).map(|_| checkpoint.path.clone());
    let folder = match kept {
        Some(folder) => Some(folder),
        None => Base::of(&checkpoint.run.finetune, cache)?.vision_folder().map(Path::to_owned),
    };
    Ok(ModelProcessor::of_model(model, folder.as_deref())?.processor)
}
