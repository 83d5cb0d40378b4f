//! Greedy decoding.

use super::question::Question;
use super::source::AnsweringModel;
use crate::attention::Segments;
use crate::batch::Batch;
use crate::error::Result;
use crate::trainer::LoadedModel;
use tch::Tensor;

impl AnsweringModel {
    /// Answers `question` in at most `max_new_tokens` tokens.
    ///
    /// # Errors
    /// libtorch refused (out of memory).
    pub fn answer(&self, loaded: &LoadedModel, question: &Question, max_new_tokens: usize) -> Result<String> {
        let (tokenizer, stop) = (&self.text.tokenizer, self.text.template.stop());
        let done = |ids: &[i64]| {
            let ended = ids.last().is_some_and(|last| self.ends.contains(last));
            let stops = |text: String| !stop.is_empty() && text.ends_with(stop);
            ended || tokenizer.decode(ids, false).is_ok_and(stops)
        };
        let ids = tch::no_grad(|| greedy(loaded, question.batch()?, max_new_tokens, done))?;
        let text = tokenizer.decode(&ids, true)?;
        Ok(text.strip_suffix(stop).unwrap_or(&text).trim().to_owned())
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
