//! Conversation templates: render turns as one text and mark the answers, which become the labels.
//!
//! Templates are data, taken from NeMo's (whose `conversation.py` was executed to record what it renders). There are
//! three intended differences. Each template has a stop string, so that each one can be trained. Llama templates are
//! written out, so that no gated tokenizer is needed. Answers are spans of the text and are never searched for in tokens.

mod table;

use std::ops::Range;

use crate::error::DataError;
pub use table::TEMPLATES;

/// Placeholder for an image in a text (LLaVA's `DEFAULT_IMAGE_TOKEN`).
pub const IMAGE_TOKEN: &str = "<image>";

/// A conversation template: the text between and around the turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Template {
    /// NeMo's name.
    pub name: &'static str,
    /// Aliases of the name.
    pub aliases: &'static [&'static str],
    /// Text at the start of the prompt.
    pub begin: &'static str,
    /// Default system text.
    pub system: &'static str,
    /// Text before and after a system text.
    pub system_frame: (&'static str, &'static str),
    /// Text in place of `system_frame` if the system text is empty.
    pub no_system: &'static str,
    /// Text before and after a question.
    pub user: (&'static str, &'static str),
    /// Text before an answer; a generation prompt ends with it.
    pub assistant: &'static str,
    /// Text between `assistant` and a nonempty answer. It is part of the labels, because generation has to produce it.
    pub gap: &'static str,
    /// Stop string at the end of an answer. It is part of the labels, and generation stops at it.
    pub stop: &'static str,
    /// Text after each stop string; not part of the labels.
    pub after: &'static str,
    /// Text between two turns.
    pub between: &'static str,
    /// Strips the whitespace around questions and answers, as the chat templates of these models do.
    pub trim: bool,
    /// Caption pretraining: a single turn; of the question, only the images are used.
    pub caption_only: bool,
}

/// A conversation of questions and answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conversation {
    /// Replaces the template's system text.
    pub system: Option<String>,
    /// Questions and answers.
    pub turns: Vec<Turn>,
}

/// A question and its answer. Only the last turn may lack an answer, which is then generated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Text of the question; may contain [`IMAGE_TOKEN`]s.
    pub question: String,
    /// Text of the answer. `None`: the prompt ends where the answer would start.
    pub answer: Option<String>,
}

/// A rendered conversation. All ranges are byte ranges of `text`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    /// The whole text.
    pub text: String,
    /// Range of each answer with its stop string: exactly the text that the model has to generate.
    pub answers: Vec<Range<usize>>,
    /// Range of each [`IMAGE_TOKEN`].
    pub images: Vec<Range<usize>>,
}

impl Template {
    /// Returns the template with this name or alias.
    ///
    /// # Errors
    /// Returns [`DataError::UnknownTemplate`], which lists all names.
    pub fn named(name: &str) -> Result<&'static Self, DataError> {
        let matches = |template: &&Self| template.name == name || template.aliases.contains(&name);
        TEMPLATES.iter().find(matches).ok_or_else(|| DataError::UnknownTemplate {
            name: name.to_owned(),
            known: TEMPLATES.iter().map(|template| template.name).collect(),
        })
    }
}

impl Conversation {
    /// Moves the image placeholders of each question to its front, one per line (LLaVA's `preprocess_multimodal`).
    pub fn move_images_to_front(&mut self) {
        for turn in &mut self.turns {
            let count = turn.question.matches(IMAGE_TOKEN).count();
            if count > 0 {
                let text = turn.question.replace(IMAGE_TOKEN, "");
                turn.question = format!("{}{}", format!("{IMAGE_TOKEN}\n").repeat(count), text.trim());
            }
        }
    }
}

/// Renders `conversation` with `template`.
///
/// # Errors
/// Returns [`DataError::Conversation`] if there is no turn, if an answer before the last turn is missing, or if a caption
/// template gets anything other than one image turn.
pub fn render(template: &Template, conversation: &Conversation) -> Result<Prompt, DataError> {
    let reject = |reason| {
        Err(DataError::Conversation {
            template: template.name,
            reason,
        })
    };
    let [earlier @ .., _] = conversation.turns.as_slice() else {
        return reject("it has no turn");
    };
    if earlier.iter().any(|turn| turn.answer.is_none()) {
        return reject("only its last turn may lack an answer");
    }
    if template.caption_only && !(earlier.is_empty() && conversation.turns[0].question.contains(IMAGE_TOKEN)) {
        return reject("it needs exactly two messages, the first of which holds `<image>`");
    }

    let mut text = template.begin.to_owned();
    let mut answers = Vec::with_capacity(conversation.turns.len());
    match conversation.system.as_deref().unwrap_or(template.system) {
        "" => text += template.no_system,
        system => text.extend([template.system_frame.0, system, template.system_frame.1]),
    }
    for (i, turn) in conversation.turns.iter().enumerate() {
        if i > 0 {
            text += template.between;
        }
        text += template.user.0;
        if template.caption_only {
            text += &IMAGE_TOKEN.repeat(turn.question.matches(IMAGE_TOKEN).count());
        } else {
            text += template.strip(&turn.question);
        }
        text.extend([template.user.1, template.assistant]);
        let Some(answer) = turn.answer.as_deref().map(|answer| template.strip(answer)) else {
            break;
        };
        let start = text.len();
        if !answer.is_empty() {
            text += template.gap;
        }
        text.extend([answer, template.stop]);
        answers.push(start..text.len());
        text += template.after;
    }
    let images = text
        .match_indices(IMAGE_TOKEN)
        .map(|(start, mark)| start..start + mark.len())
        .collect();
    Ok(Prompt { text, answers, images })
}

impl Template {
    fn strip<'a>(&self, message: &'a str) -> &'a str {
        if self.trim { message.trim() } else { message }
    }
}
