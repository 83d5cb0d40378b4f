//! A question as the input of a model: token ids and images.

use super::source::AnsweringModel;
use crate::batch::Batch;
use crate::error::{EngineError, Result};
use crate::trainer::to_device;
use neva_data::{Conversation, IGNORE_INDEX, IMAGE_TOKEN, MergeOptions, RgbImage, Sequence, Turn, merge, repeat_placeholders};
use neva_schemas::{GenerateRequest, Problem};
use std::path::PathBuf;
use tch::Device;

/// A question as the input of a model.
#[derive(Debug)]
pub struct Question {
    batch: neva_data::Batch,
    image_seq_len: usize,
}

impl Question {
    /// Returns the model's input.
    ///
    /// # Errors
    /// libtorch refused (out of memory).
    pub fn batch(&self) -> Result<Batch> {
        to_device(&self.batch, self.image_seq_len, Device::Cpu)
    }
}

impl AnsweringModel {
    /// Reads the images and renders the prompt.
    ///
    /// # Errors
    /// An image cannot be read, the numbers of images and `<image>`s differ, or the answer has no room.
    pub fn question(&self, request: &GenerateRequest) -> Result<Question> {
        let model = self.finetune.model.description();
        if model.vision.is_none() && !request.images.is_empty() {
            let message = format!("{} has no vision encoder and reads only text", self.finetune.model.target());
            return Err(EngineError::Run(vec![Problem::error("--image", message).help("leave it out")]));
        }
        let open = |path: &PathBuf| {
            if self.apply_exif {
                RgbImage::open_upright(path)
            } else {
                RgbImage::open(path)
            }
        };
        let tiles = request
            .images
            .iter()
            .map(|path| Ok(self.processor.process_tiles(&open(path)?)))
            .collect::<Result<Vec<_>>>()?;
        let counts: Vec<usize> = tiles.iter().map(Vec::len).collect();
        let images: Vec<_> = tiles.into_iter().flatten().collect();
        let mut ids = self.prompt_ids(request)?;
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
        if tokens.s.saturating_add(request.max_new_tokens) > room {
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
        Ok(Question { batch, image_seq_len })
    }

    /// Returns the token ids of the question. Each image is one placeholder.
    fn prompt_ids(&self, request: &GenerateRequest) -> Result<Vec<i64>> {
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
        let prompt = self.text.template.render(&conversation)?;
        Ok(self.text.tokenizer.encode_prompt(&prompt)?.ids)
    }
}
