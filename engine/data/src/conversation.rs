//! Conversations: questions and answers before a template renders them.

use std::borrow::Cow;

/// Placeholder for an image in a text (LLaVA's `DEFAULT_IMAGE_TOKEN`).
pub const IMAGE_TOKEN: &str = "<image>";

/// Noncharacter that tells an [`IMAGE_TOKEN`] that is text from a placeholder. [`Prompt`](crate::Prompt) does not have it.
pub(crate) const LITERAL: char = '\u{fdd0}';
/// [`IMAGE_TOKEN`] as text.
const LITERAL_IMAGE_TOKEN: &str = "<\u{fdd0}image>";

/// A conversation of questions and answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conversation {
    /// Replaces the template's system text.
    pub system: Option<String>,
    /// Questions and answers.
    pub turns: Vec<Turn>,
}

/// A question and its answer. Only the last turn may lack an answer, which is then generated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Text of the question; may contain [`IMAGE_TOKEN`]s.
    pub question: String,
    /// Text of the answer. `None`: the prompt ends where the answer would start.
    pub answer: Option<String>,
}

impl Conversation {
    /// Returns a text in which each [`IMAGE_TOKEN`] is text and no placeholder.
    #[must_use]
    pub fn literal(text: &str) -> Cow<'_, str> {
        if text.contains(IMAGE_TOKEN) {
            text.replace(IMAGE_TOKEN, LITERAL_IMAGE_TOKEN).into()
        } else {
            text.into()
        }
    }

    /// Returns the number of image placeholders in questions and answers.
    #[must_use]
    pub fn placeholders(&self) -> usize {
        let count = |text: &str| text.matches(IMAGE_TOKEN).count();
        let of_turn = |turn: &Turn| count(&turn.question) + turn.answer.as_deref().map_or(0, count);
        self.turns.iter().map(of_turn).sum()
    }

    /// Moves the image placeholders of each question to its front, one per line (LLaVA's `preprocess_multimodal`). A
    /// question of placeholders alone does not end in a line break.
    pub fn move_images_to_front(&mut self) {
        for turn in &mut self.turns {
            let count = turn.question.matches(IMAGE_TOKEN).count();
            if count > 0 {
                turn.question = with_images_in_front(count, &turn.question.replace(IMAGE_TOKEN, ""));
            }
        }
    }

    /// Puts `count` image placeholders in front of the first question, one per line.
    pub(crate) fn put_images_in_front(&mut self, count: usize) {
        if let Some(turn) = self.turns.first_mut() {
            turn.question = with_images_in_front(count, &turn.question);
        }
    }
}

fn with_images_in_front(count: usize, text: &str) -> String {
    let placeholders = vec![IMAGE_TOKEN; count].join("\n");
    match text.trim() {
        "" => placeholders,
        text => format!("{placeholders}\n{text}"),
    }
}
