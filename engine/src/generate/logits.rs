//! Writes the input and the logits of a question, for a comparison with another program.

use super::question::Question;
use super::source::AnsweringModel;
use crate::checkpoint::write_tensors;
use crate::error::Result;
use crate::trainer::LoadedModel;
use std::path::Path;
use tch::{Kind, Tensor};

/// Writes `input_ids` `[1, s]` with an image token at each position of an image, `pixel_values` of the images, and `logits`
/// `[1, s, v]` in fp32 to a safetensors file.
///
/// # Errors
/// The file cannot be written, or libtorch refused (out of memory).
pub fn write_logits(path: &Path, model: &AnsweringModel, loaded: &LoadedModel, question: &Question) -> Result<()> {
    let batch = question.batch()?;
    let logits = tch::no_grad(|| {
        let (chunk, head) = loaded.whole()?;
        head.logits(&chunk.forward(&batch, None)?)
    })?;
    let image_token = model.finetune.model.as_llava().map_or(0, |model| model.image_token_index);
    let ids = batch.input_ids_bs.where_scalarother(&batch.input_ids_bs.ge(0), image_token);
    let mut tensors = vec![("input_ids".to_owned(), ids), ("logits".to_owned(), logits.to_kind(Kind::Float))];
    tensors.extend(batch.pixels.map(|pixels: Tensor| ("pixel_values".to_owned(), pixels)));
    write_tensors(path, tensors)
}
