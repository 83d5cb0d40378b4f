//! Greedy answers from a checkpoint.

use crate::checkpoint::{Base, CheckpointFolder, ModelCache, Sources};
use crate::comm::Mesh;
use crate::error::{EngineError, Result};
use crate::model::Batch;
use crate::nn::Segments;
use crate::trainer::{LoadedModel, process_mode, to_device};
use neva_data::{Conversation, IGNORE, IMAGE_MARK, ImageProcessor, MergeOptions, Rgb, Row, Template, Tokenizer, Turn, merge, render};
use neva_schemas::{Data, GenerateRequest, ImageDataConfig, Problem};
use std::path::Path;
use tch::{Device, Tensor};

/// Answers the question of `request`.
///
/// # Errors
/// The checkpoint or a picture cannot be read, or pictures and `<image>`s differ in number.
pub fn generate(request: &GenerateRequest, cache: &ModelCache) -> Result<String> {
    let checkpoint = CheckpointFolder::find(&request.checkpoint)?;
    let finetune = &checkpoint.run.finetune;
    let model = finetune.model.llava();
    let tokenizer_file = checkpoint.path.join("tokenizer.json");
    if !tokenizer_file.is_file() {
        let reason = "holds no tokenizer.json: the data of its run has no words, as mock data".into();
        return Err(EngineError::Content {
            path: checkpoint.path.clone(),
            reason,
        });
    }
    let tokenizer = Tokenizer::open(&checkpoint.path.display().to_string())?;
    let data_config = match &finetune.data {
        Data::Preloaded(data) => data.data_config.clone(),
        Data::Mock(_) | Data::Custom(_) => ImageDataConfig::default(),
    };
    let add_bos = !matches!(&finetune.data, Data::Preloaded(data) if data.add_bos == Some(false));
    let tokenizer = tokenizer.with_bos(add_bos);
    let processor = processor(&checkpoint.path, model.vision_config.image_size)?.with_mode(process_mode(data_config.image_process_mode));
    let template = Template::named(&data_config.conv_template)?;

    let pictures = request
        .images
        .iter()
        .map(|path| Ok(processor.process(&Rgb::open(path)?)))
        .collect::<Result<Vec<_>>>()?;
    let ids = prompt_ids(request, template, &tokenizer)?;
    let labels = vec![IGNORE; ids.len()];
    let row = Row {
        name: "prompt",
        ids: &ids,
        labels: &labels,
        images: pictures.len(),
    };
    let image_seq_len = model.image_seq_length();
    let room = model.text_config.max_position_embeddings;
    let tokens = merge(
        &[row],
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
    let edge = model.vision_config.image_size;
    let pixels = pictures.iter().flat_map(|picture| picture.chw.iter().copied()).collect();
    let batch = neva_data::Batch {
        tokens,
        pixels,
        pixel_shape: [pictures.len(), 3, edge, edge],
        samples: Vec::new(),
    };

    let base = Base::of(finetune, cache)?;
    Base::check(&base.reference()?, &checkpoint, "--checkpoint")?;
    let sources = Sources {
        checkpoint: Some(&checkpoint),
        adapter: None,
        base: &base,
        cache,
    };
    let loaded = LoadedModel::load(finetune, sources, &Mesh::single(), Device::Cpu)?;
    let ids = tch::no_grad(|| {
        greedy(
            &loaded,
            to_device(&batch, image_seq_len, Device::Cpu)?,
            request.max_new_tokens,
            |ids| {
                let ended = ids
                    .last()
                    .is_some_and(|last| tokenizer.special().eos.is_some_and(|eos| i64::from(eos) == *last));
                ended || tokenizer.decode(ids, false).is_ok_and(|text| text.ends_with(template.stop))
            },
        )
    })?;
    let text = tokenizer.decode(&ids, true)?;
    Ok(text.strip_suffix(template.stop).unwrap_or(&text).trim().to_owned())
}

/// The most likely token, again and again, until `done` or `max_new_tokens`.
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

/// Token ids of the question, each picture one placeholder.
fn prompt_ids(request: &GenerateRequest, template: &Template, tokenizer: &Tokenizer) -> Result<Vec<i64>> {
    let marks = request.prompt.matches(IMAGE_MARK).count();
    let question = if marks == 0 {
        format!("{}{}", format!("{IMAGE_MARK}\n").repeat(request.images.len()), request.prompt)
    } else {
        request.prompt.clone()
    };
    if marks > 0 && marks != request.images.len() {
        return Err(EngineError::Run(vec![
            Problem::error(
                "--prompt",
                format!("it has {marks} `{IMAGE_MARK}`, but {} pictures are given", request.images.len()),
            )
            .help("give one --image for each, or leave the marks out"),
        ]));
    }
    let conversation = Conversation {
        system: None,
        turns: vec![Turn { question, answer: None }],
    };
    Ok(tokenizer.encode_prompt(&render(template, &conversation)?)?.ids)
}

fn processor(checkpoint: &Path, edge: usize) -> Result<ImageProcessor> {
    let file = checkpoint.join("preprocessor_config.json");
    Ok(if file.is_file() {
        ImageProcessor::open(&file)?
    } else {
        ImageProcessor::clip(edge)
    })
}
