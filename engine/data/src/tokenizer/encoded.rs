//! Tokenized prompts: ids, and labels from the spans of the answers.

use std::ops::Range;

use super::{Tokenizer, encoder::PLACEHOLDER};
use crate::{
    error::DataError,
    prompt::Prompt,
    sample::{IGNORE_INDEX, IMAGE_TOKEN_INDEX},
};

/// A tokenized prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids, [`IMAGE_TOKEN_INDEX`] once per image. Shape `[t]`.
    pub ids: Vec<i64>,
    /// The token id where the token is a label, otherwise [`IGNORE_INDEX`]; not shifted. Shape `[t]`.
    pub labels: Vec<i64>,
}

/// Tokenization of the text around images. The two differ for tokenizers that put a blank in front of the first word only
/// (`prepend_scheme: first`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImageText {
    /// Each text between images on its own, as LLaVA's `tokenizer_image_token` and NeMo do: each one has a first word.
    #[default]
    Llava,
    /// The whole text, with a special token for each image, as Hugging Face's processors do.
    HuggingFace,
}

impl Tokenizer {
    /// Encodes a prompt as token ids and labels.
    ///
    /// The text between two images is tokenized as a whole, so that the ids equal those of the reference. A token is a
    /// label if its span starts within an answer, or starts before it and overlaps it. With Vicuna's template the labels
    /// equal LLaVA's own, except for samples that LLaVA ignores with a "tokenization mismatch" warning.
    ///
    /// # Errors
    /// Returns an error if the tokenizer cannot represent the text.
    pub fn encode_prompt(&self, prompt: &Prompt) -> Result<Encoded, DataError> {
        let mut encoded = Encoded::default();
        match self.image_text {
            ImageText::HuggingFace if !prompt.images.is_empty() => self.encode_with_images(prompt, &mut encoded)?,
            _ => {
                let mut start = 0;
                for image in &prompt.images {
                    self.encode_chunk(prompt, start..image.start, &mut encoded)?;
                    encoded.push(IMAGE_TOKEN_INDEX, false);
                    start = image.end;
                }
                self.encode_chunk(prompt, start..prompt.text.len(), &mut encoded)?;
            }
        }
        match self.special.bos.map(i64::from) {
            Some(bos) if self.add_bos && encoded.ids.first() != Some(&bos) => {
                encoded.ids.insert(0, bos);
                encoded.labels.insert(0, IGNORE_INDEX);
            }
            _ => {}
        }
        Ok(encoded)
    }

    fn encode_chunk(&self, prompt: &Prompt, chunk: Range<usize>, encoded: &mut Encoded) -> Result<(), DataError> {
        let text = &prompt.text[chunk.clone()];
        if text.is_empty() {
            return Ok(());
        }
        let encoding = self.encoder().encode(text, false).map_err(|error| self.error(&*error))?;
        for (&id, &(start, end)) in encoding.get_ids().iter().zip(encoding.get_offsets()) {
            let span = chunk.start + start..chunk.start + end;
            encoded.push(i64::from(id), is_label(&prompt.answers, span));
        }
        Ok(())
    }

    /// Encodes the whole text, with [`PLACEHOLDER`] for each image.
    fn encode_with_images(&self, prompt: &Prompt, encoded: &mut Encoded) -> Result<(), DataError> {
        let placeholder = self.encoder().token_to_id(PLACEHOLDER);
        let (mut text, mut answers, mut last) = (String::new(), prompt.answers.clone(), 0);
        for image in &prompt.images {
            text.extend([&prompt.text[last..image.start], PLACEHOLDER]);
            last = image.end;
        }
        text += &prompt.text[last..];
        let moved = |at: usize| {
            let before = prompt.images.iter().filter(|image| image.end <= at);
            before.fold(at, |at, image| at + PLACEHOLDER.len() - image.len())
        };
        answers
            .iter_mut()
            .for_each(|answer| *answer = moved(answer.start)..moved(answer.end));
        let encoding = self.encoder().encode(text.as_str(), false).map_err(|error| self.error(&*error))?;
        for (&id, &(start, end)) in encoding.get_ids().iter().zip(encoding.get_offsets()) {
            if Some(id) == placeholder {
                encoded.push(IMAGE_TOKEN_INDEX, false);
            } else {
                encoded.push(i64::from(id), is_label(&answers, start..end));
            }
        }
        Ok(())
    }
}

/// Returns whether a token with this span is a label: it starts within an answer, or overlaps the start of one.
fn is_label(answers: &[Range<usize>], span: Range<usize>) -> bool {
    let in_answer = |answer: &Range<usize>| span.start < answer.end && (span.start >= answer.start || span.end > answer.start);
    answers.iter().any(in_answer)
}

impl Encoded {
    fn push(&mut self, id: i64, is_label: bool) {
        self.ids.push(id);
        self.labels.push(if is_label { id } else { IGNORE_INDEX });
    }
}
