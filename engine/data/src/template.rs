//! Conversation templates: how turns become one text, and which part of it the model learns.
//!
//! A template is data, taken from NeMo's (whose `conversation.py` was executed to record what it renders). Three things
//! differ on purpose: each template has a stop string, so that each one can train; Llama templates are written out, so
//! that no gated tokenizer is needed; answers are spans of the text, never searched for in tokens.

mod table;

use std::ops::Range;

use crate::error::DataError;
pub use table::TEMPLATES;

/// What stands for a picture in a text.
pub const IMAGE_MARK: &str = "<image>";

/// The text between and around the turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Template {
    /// NeMo's name.
    pub name: &'static str,
    /// Other names for it.
    pub aliases: &'static [&'static str],
    /// Before everything.
    pub begin: &'static str,
    /// What the model is told about itself, unless the conversation says otherwise.
    pub system: &'static str,
    /// Around a system text.
    pub system_frame: (&'static str, &'static str),
    /// Instead of a frame, when the system text is empty.
    pub no_system: &'static str,
    /// Around a question.
    pub user: (&'static str, &'static str),
    /// Before an answer; a generation prompt ends here.
    pub assistant: &'static str,
    /// Between `assistant` and an answer that is not empty; learnt, for a generation has to produce it.
    pub gap: &'static str,
    /// Ends an answer, and is learnt with it; a generation that produced it is done.
    pub stop: &'static str,
    /// After each stop string; not learnt.
    pub after: &'static str,
    /// Between two turns.
    pub between: &'static str,
    /// Surrounding whitespace of questions and answers is dropped, as the chat templates of these models do.
    pub trim: bool,
    /// Pretraining on captions: one turn, of whose question only the pictures are used.
    pub caption_only: bool,
}

/// What was said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conversation {
    /// Replaces the template's system text.
    pub system: Option<String>,
    /// Questions and answers.
    pub turns: Vec<Turn>,
}

/// A question and its answer. Without an answer (of the last turn), it is to be generated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// May hold [`IMAGE_MARK`]s.
    pub question: String,
    /// `None`: the prompt ends where an answer would start.
    pub answer: Option<String>,
}

/// A rendered conversation. All ranges are in bytes of `text`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    /// The whole text.
    pub text: String,
    /// Each answer with its stop string: exactly what is to be generated after the text before it.
    pub answers: Vec<Range<usize>>,
    /// Each [`IMAGE_MARK`].
    pub images: Vec<Range<usize>>,
}

impl Template {
    /// The template called `name`, or so by an alias.
    ///
    /// # Errors
    /// When there is none, naming those there are.
    pub fn named(name: &str) -> Result<&'static Self, DataError> {
        let matches = |template: &&Self| template.name == name || template.aliases.contains(&name);
        TEMPLATES.iter().find(matches).ok_or_else(|| DataError::UnknownTemplate {
            name: name.to_owned(),
            known: TEMPLATES.iter().map(|template| template.name).collect(),
        })
    }
}

impl Conversation {
    /// Moves the marks of each question to its front, one per line (LLaVA's `preprocess_multimodal`).
    pub fn move_images_to_front(&mut self) {
        for turn in &mut self.turns {
            let count = turn.question.matches(IMAGE_MARK).count();
            if count > 0 {
                let text = turn.question.replace(IMAGE_MARK, "");
                turn.question = format!("{}{}", format!("{IMAGE_MARK}\n").repeat(count), text.trim());
            }
        }
    }
}

/// Writes `conversation` as `template` wants it.
///
/// # Errors
/// When there is no turn, when an answer is missing before the last turn, or when a caption template gets more than a
/// picture and its caption.
pub fn render(template: &Template, conversation: &Conversation) -> Result<Prompt, DataError> {
    let refuse = |reason| {
        Err(DataError::Conversation {
            template: template.name,
            reason,
        })
    };
    let [earlier @ .., _] = conversation.turns.as_slice() else {
        return refuse("it has no turn");
    };
    if earlier.iter().any(|turn| turn.answer.is_none()) {
        return refuse("only its last turn may lack an answer");
    }
    if template.caption_only && !(earlier.is_empty() && conversation.turns[0].question.contains(IMAGE_MARK)) {
        return refuse("it needs exactly two messages, the first of which holds `<image>`");
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
            text += &IMAGE_MARK.repeat(turn.question.matches(IMAGE_MARK).count());
        } else {
            text += template.tidy(&turn.question);
        }
        text.extend([template.user.1, template.assistant]);
        let Some(answer) = turn.answer.as_deref().map(|answer| template.tidy(answer)) else {
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
        .match_indices(IMAGE_MARK)
        .map(|(start, mark)| start..start + mark.len())
        .collect();
    Ok(Prompt { text, answers, images })
}

impl Template {
    fn tidy<'a>(&self, message: &'a str) -> &'a str {
        if self.trim { message.trim() } else { message }
    }
}
