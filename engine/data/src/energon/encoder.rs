//! The task encoder: the text that a model is trained on, and the places of images in it. NeMo's `MultiModalTaskEncoder`,
//! with all sample types that Energon has for images and text.
//!
//! | type | trained on |
//! |---|---|
//! | VQA, VQA with OCR | the answers of a conversation |
//! | multiple choice | the letter of the right choice |
//! | captioning, OCR, classification | image, then the text and a newline: LLaVA's `plain` |
//! | text, interleaved, interleaved with similarities | all text |

use std::{ops::Range, sync::Arc};

use super::{
    matches::matched_texts,
    sample::{EnergonSample, Texts, Value},
    sample_type::SampleType,
    task_encoder::{DocumentPiece, TaskEncoder, TaskText},
};
use crate::{
    conversation::{Conversation, IMAGE_TOKEN, Turn},
    error::DataError,
    prompt::Prompt,
    template::ChatTemplate,
};

/// Settings of the encoder.
#[derive(Clone)]
pub(super) struct Encoder {
    pub(super) template: ChatTemplate,
    /// Text that stands for an image in the samples.
    pub(super) image_token: String,
    /// Puts an image behind its text, or in front.
    pub(super) image_following_text: bool,
    /// The model reads images.
    pub(super) reads_images: bool,
    /// Encoder of the program's own.
    pub(super) custom: Option<Arc<dyn TaskEncoder>>,
}

/// Letters of choices.
const LETTERS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";

/// LLaVA's request for a letter.
const CHOOSE: &str = "Answer with the option's letter from the given choices directly.";

impl Encoder {
    /// Returns the prompt of a sample, and the parts of its images in the order of their places.
    ///
    /// # Errors
    /// A field is missing or invalid.
    pub(super) fn encode(&self, sample: &EnergonSample) -> Result<(Prompt, Vec<String>), DataError> {
        let (prompt, images) = match &self.custom {
            Some(custom) => self.rendered(sample, custom.encode(sample)?)?,
            None => {
                let (prompt, images) = self.built_in(sample)?;
                (prompt, images.into_iter().map(str::to_owned).collect())
            }
        };
        if !self.reads_images && !images.is_empty() {
            return Err(sample.invalid("image", "the model has no vision encoder: remove the image or train vlm.LlavaModel"));
        }
        Ok((prompt, images))
    }

    /// Renders the text of an encoder of the program's own.
    fn rendered(&self, sample: &EnergonSample, text: TaskText) -> Result<(Prompt, Vec<String>), DataError> {
        match text {
            TaskText::Conversation { conversation, images } => {
                let places = conversation.placeholders();
                if places != images.len() {
                    let reason = format!("its task encoder returned {} image(s) for {places} place(s)", images.len());
                    return Err(sample.invalid("", reason));
                }
                Ok((self.template.render(&conversation)?, images))
            }
            TaskText::Document(document) => {
                let pieces: Vec<Piece<'_>> = (document.iter())
                    .map(|piece| match piece {
                        DocumentPiece::Text(text) => Piece::Text(text),
                        DocumentPiece::Image(_) => Piece::Image,
                    })
                    .collect();
                let prompt = self.document(sample, "", &pieces)?;
                let images = document.into_iter().filter_map(|piece| match piece {
                    DocumentPiece::Image(part) => Some(part),
                    DocumentPiece::Text(_) => None,
                });
                Ok((prompt, images.collect()))
            }
        }
    }

    fn built_in<'a>(&self, sample: &'a EnergonSample) -> Result<(Prompt, Vec<&'a str>), DataError> {
        Ok(match sample.sample_type {
            SampleType::Vqa | SampleType::VqaOcr => self.conversation(sample, self.turns(sample)?)?,
            SampleType::MultiChoiceVqa => self.conversation(sample, vec![self.choice(sample)?])?,
            SampleType::Captioning => self.plain(sample, sample.text("caption")?)?,
            SampleType::Ocr => self.plain(sample, sample.text("text")?)?,
            SampleType::ImageClassification => self.plain(sample, &label(sample)?)?,
            SampleType::Text => (self.document(sample, "text", &[Piece::Text(sample.text("text")?)])?, Vec::new()),
            SampleType::Interleaved => self.interleaved(sample)?,
            SampleType::SimilarityInterleaved => self.matched(sample)?,
            SampleType::Image => return Err(sample.invalid("", "ImageSample has no text to train on")),
        })
    }

    /// Returns a text of a question or an answer, in which the image token stands for an image. Without images it is text.
    fn marked(&self, text: &str, has_images: bool) -> String {
        match has_images {
            false => Conversation::literal(text).into_owned(),
            true if self.image_token == IMAGE_TOKEN => text.to_owned(),
            true => Conversation::literal(text).replace(&self.image_token, IMAGE_TOKEN),
        }
    }

    /// Returns the turns of a question and its answer, or of several ones.
    fn turns(&self, sample: &EnergonSample) -> Result<Vec<Turn>, DataError> {
        let Some(context) = sample.texts("context")? else {
            return Err(sample.invalid("context", "is missing: a conversation needs a question"));
        };
        let Some(answers) = sample.texts("answers")? else {
            return Err(sample.invalid("answers", "is missing: there is nothing to train on"));
        };
        let has_images = !sample.images("image")?.is_empty();
        let turn = |question: &str, answer: &str| Turn {
            question: self.marked(question, has_images),
            answer: Some(self.marked(answer, has_images)),
        };
        match (context, answers) {
            (Texts::One(question), Texts::One(answer)) => Ok(vec![turn(question, answer)]),
            (Texts::One(question), Texts::Many(answers)) => {
                let best = best(sample, answers.len())?;
                let answer = answers
                    .get(best)
                    .ok_or_else(|| sample.invalid("answers", "is an empty list: there is nothing to train on"))?;
                Ok(vec![turn(question, answer)])
            }
            (Texts::Many(questions), Texts::Many(answers)) if questions.len() == answers.len() && !questions.is_empty() => Ok(questions
                .iter()
                .zip(answers)
                .map(|(question, answer)| turn(question, answer))
                .collect()),
            (Texts::Many(questions), Texts::Many(answers)) => {
                let reason = format!(
                    "has {} text(s), but `context` has {}: each question needs one answer",
                    answers.len(),
                    questions.len()
                );
                Err(sample.invalid("answers", reason))
            }
            (Texts::Many(questions), Texts::One(answer)) => match questions.as_slice() {
                [question] => Ok(vec![turn(question, answer)]),
                _ => Err(sample.invalid(
                    "answers",
                    format!("is one text, but `context` has {}: each question needs one answer", questions.len()),
                )),
            },
        }
    }

    /// Returns the turn of a question with choices, in LLaVA's form.
    fn choice(&self, sample: &EnergonSample) -> Result<Turn, DataError> {
        let question = self.marked(sample.text("context")?, !sample.images("image")?.is_empty());
        let choices = match sample.texts("choices")? {
            Some(Texts::Many(choices)) if (1..=LETTERS.len()).contains(&choices.len()) => choices,
            _ => return Err(sample.invalid("choices", format!("must be a list of 1 to {} texts", LETTERS.len()))),
        };
        let index = match sample.get("correct_choice_idx") {
            Value::Null => Some(0),
            Value::Number(number) => number.as_u64().and_then(|index| usize::try_from(index).ok()),
            _ => None,
        };
        let letters = || LETTERS.chars().zip(&choices);
        let Some((letter, _)) = index.filter(|index| *index < choices.len()).and_then(|index| letters().nth(index)) else {
            let reason = format!("must be the index of one of the {} choices", choices.len());
            return Err(sample.invalid("correct_choice_idx", reason));
        };
        let list: Vec<String> = letters()
            .map(|(letter, text)| format!("{letter}. {}", Conversation::literal(text)))
            .collect();
        Ok(Turn {
            question: format!("{question}\n{}\n{CHOOSE}", list.join("\n")),
            answer: Some(letter.to_string()),
        })
    }

    fn conversation<'a>(&self, sample: &'a EnergonSample, turns: Vec<Turn>) -> Result<(Prompt, Vec<&'a str>), DataError> {
        let images = sample.images("image")?;
        let mut conversation = Conversation { system: None, turns };
        let places = conversation.placeholders();
        if places == 0 && !images.is_empty() {
            conversation.put_images_in_front(images.len());
        } else if places != images.len() {
            let reason = format!(
                "{} image(s), but the text has `{}` {places} time(s)",
                images.len(),
                self.image_token
            );
            return Err(sample.invalid("image", reason));
        }
        Ok((self.template.render(&conversation)?, images))
    }

    /// Returns the images, then a text and a newline.
    fn plain<'a>(&self, sample: &'a EnergonSample, text: &str) -> Result<(Prompt, Vec<&'a str>), DataError> {
        let images = sample.images("image")?;
        let mut rendered = IMAGE_TOKEN.repeat(images.len());
        let start = rendered.len();
        rendered += &Conversation::literal(text.trim());
        rendered.push('\n');
        if text.trim().is_empty() {
            return Err(sample.invalid("", "its text is empty: there is nothing to train on"));
        }
        let answer = start..rendered.len();
        Ok((Prompt::from_rendered(rendered, vec![answer]), images))
    }

    fn interleaved<'a>(&self, sample: &'a EnergonSample) -> Result<(Prompt, Vec<&'a str>), DataError> {
        let Value::List(items) = sample.get("sequence") else {
            return Err(sample.invalid(
                "sequence",
                format!("must be a list of texts and images, found {}", sample.get("sequence").kind()),
            ));
        };
        let mut pieces = Vec::with_capacity(items.len());
        let mut images = Vec::new();
        for (index, item) in items.iter().enumerate() {
            match item {
                Value::Text(text) => pieces.push(Piece::Text(text)),
                Value::Image(part) => {
                    pieces.push(Piece::Image);
                    images.push(part.as_str());
                }
                other => {
                    let reason = format!(
                        "must be text or an image, found {}: parts(json[sequence], image) names the parts of images",
                        other.kind()
                    );
                    return Err(sample.invalid(&format!("sequence[{index}]"), reason));
                }
            }
        }
        Ok((self.document(sample, "sequence", &pieces)?, images))
    }

    /// Returns texts with each image beside the text that it belongs to. Several images of one text stay in their order.
    fn matched<'a>(&self, sample: &'a EnergonSample) -> Result<(Prompt, Vec<&'a str>), DataError> {
        let images = sample.images("images")?;
        let texts = match sample.texts("texts")? {
            Some(Texts::Many(texts)) => texts,
            Some(Texts::One(text)) => vec![text],
            None => Vec::new(),
        };
        let matched = matched_texts(sample, images.len(), texts.len())?;
        let (mut pieces, mut order) = (Vec::new(), Vec::new());
        for (index, text) in texts.iter().enumerate() {
            let own: Vec<&str> = images
                .iter()
                .zip(&matched)
                .filter(|(_, at)| **at == index)
                .map(|(image, _)| *image)
                .collect();
            let text = Piece::Text(text);
            let marks = own.iter().map(|_| Piece::Image);
            if self.image_following_text {
                pieces.push(text);
                pieces.extend(marks);
            } else {
                pieces.extend(marks);
                pieces.push(text);
            }
            order.extend(own);
        }
        let blank = Piece::Text(" ");
        let spaced: Vec<Piece<'_>> = pieces
            .into_iter()
            .enumerate()
            .flat_map(|(index, piece)| (index > 0).then_some(blank).into_iter().chain([piece]))
            .collect();
        Ok((self.document(sample, "texts", &spaced)?, order))
    }

    /// Returns the prompt of texts and images, all of whose text is trained on.
    fn document(&self, sample: &EnergonSample, field: &str, pieces: &[Piece<'_>]) -> Result<Prompt, DataError> {
        let mut rendered = String::new();
        let mut answers: Vec<Range<usize>> = Vec::new();
        for piece in pieces {
            let start = rendered.len();
            match piece {
                Piece::Image => rendered += IMAGE_TOKEN,
                Piece::Text(text) => {
                    rendered += &Conversation::literal(text);
                    answers.push(start..rendered.len());
                }
            }
        }
        let has_text = pieces
            .iter()
            .any(|piece| matches!(piece, Piece::Text(text) if !text.trim().is_empty()));
        match has_text {
            true => Ok(Prompt::from_rendered(rendered, answers)),
            false => Err(sample.invalid(field, "has no text to train on")),
        }
    }
}

#[derive(Clone, Copy)]
enum Piece<'a> {
    Text(&'a str),
    Image,
}

/// Returns the index of the answer with the largest weight, or the first one.
fn best(sample: &EnergonSample, answers: usize) -> Result<usize, DataError> {
    let Some(weights) = sample.numbers("answer_weights")? else {
        return Ok(0);
    };
    if weights.len() != answers {
        return Err(sample.invalid("answer_weights", format!("has {} number(s) for {answers} answer(s)", weights.len())));
    }
    let mut best = 0;
    for (index, weight) in weights.iter().enumerate() {
        if weights.get(best).is_some_and(|most| weight > most) {
            best = index;
        }
    }
    Ok(best)
}

/// Returns the text of a class: its name, or its number.
fn label(sample: &EnergonSample) -> Result<String, DataError> {
    match (sample.get("label_name"), sample.get("label")) {
        (Value::Text(name), _) => Ok(name.clone()),
        (Value::Null, Value::Number(number)) => Ok(number.to_string()),
        (Value::Null, Value::Text(name)) => Ok(name.clone()),
        _ => Err(sample.invalid("label_name", "must be text, or `label` a number")),
    }
}
