//! Greedy decoding of answers: from a checkpoint, or from a model in Hugging Face's format.

mod decoding;
mod folder;
mod logits;
mod question;
mod source;

pub use logits::write_logits;
pub use question::Question;
pub use source::AnsweringModel;

use crate::checkpoint::ModelCache;
use crate::error::Result;
use crate::model::Models;
use neva_schemas::GenerateRequest;

/// Answers the question of `request`.
///
/// # Errors
/// The model or an image cannot be read, or the numbers of images and `<image>`s differ.
pub fn generate(request: &GenerateRequest, models: &Models, cache: &ModelCache) -> Result<String> {
    let model = AnsweringModel::open(&request.source, models, cache)?;
    let question = model.question(request)?;
    let loaded = model.load(models, cache)?;
    model.answer(&loaded, &question, request.max_new_tokens)
}
