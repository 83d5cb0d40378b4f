//! Conversation templates: render turns as one text and mark the answers, which become the labels.
//!
//! Templates are data, taken from NeMo's (whose `conversation.py` was executed to record what it renders). There are
//! three intended differences. Each template has a stop string, so that each one can be trained. Llama templates are
//! written out, so that no gated tokenizer is needed. Answers are spans of the text and are never searched for in tokens.

mod chat;
mod content;
mod control;
mod extensions;
mod jinja;
mod json;
mod layout;
mod marks;
mod renderer;
mod table;
mod to_jinja;

use crate::{
    conversation::{Conversation, IMAGE_TOKEN},
    error::DataError,
    prompt::Prompt,
};
pub use chat::ChatTemplate;
pub use control::ControlStrings;
pub use jinja::JinjaTemplate;
pub use renderer::JinjaSettings;
pub use table::TEMPLATES;

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
    /// The model's format has no place for a system text: a conversation that has one is refused.
    pub without_system: bool,
    /// Strings such as `<|user|>` are text of several tokens in the model's own tokenizer, too.
    pub text_headers: bool,
}

impl Template {
    /// Returns the template with this name or alias. Case is ignored, and `-`, `.` and spaces are read as `_`.
    ///
    /// # Errors
    /// Returns [`DataError::UnknownTemplate`], which lists all names.
    pub fn named(name: &str) -> Result<&'static Self, DataError> {
        let plain = name.trim().to_lowercase().replace(['-', '.', ' '], "_");
        let matches = |template: &&Self| template.name == plain || template.aliases.contains(&plain.as_str());
        TEMPLATES.iter().find(matches).ok_or_else(|| DataError::UnknownTemplate {
            name: name.to_owned(),
            known: TEMPLATES.iter().map(|template| template.name).collect(),
        })
    }
}

/// Renders `conversation` with `template`.
///
/// # Errors
/// Returns [`DataError::Conversation`] if there is no turn, if an answer before the last turn is missing, if the template has
/// no place for a system text, or if a caption template gets anything other than one image turn.
pub fn render(template: &Template, conversation: &Conversation) -> Result<Prompt, DataError> {
    let reject = |reason: &str| {
        Err(DataError::Conversation {
            template: template.name.to_owned(),
            reason: reason.to_owned(),
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
    let has_system = conversation.system.as_deref().is_some_and(|system| !system.trim().is_empty());
    if template.without_system && has_system {
        return reject("it has no place for the conversation's system text");
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
    Ok(Prompt::from_rendered(text, answers))
}

impl Template {
    fn strip<'a>(&self, message: &'a str) -> &'a str {
        if self.trim { message.trim() } else { message }
    }
}
