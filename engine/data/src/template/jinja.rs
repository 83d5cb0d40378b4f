//! Jinja chat templates, rendered as Hugging Face's `apply_chat_template` does.
//!
//! Answers are found without knowing the template: they are rendered once with marks around them, and the result without
//! marks must equal what the template renders without them. Where it does not (a template that looks into answers), the
//! conversation is rendered up to each answer and through it. A template with Hugging Face's `{% generation %}` says itself
//! what is an answer.

use std::ops::Range;

use minijinja::{Environment, Value, context};

use super::{
    extensions::{self, sentence},
    layout::{Content, Layout},
    marks::{self, Place},
};
use crate::{
    conversation::{Conversation, IMAGE_TOKEN},
    error::DataError,
    prompt::Prompt,
};

/// Settings of a [`JinjaTemplate`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JinjaSettings {
    /// Name in messages.
    pub name: String,
    /// The template.
    pub source: String,
    /// Names and contents of the special tokens that the template can write, such as `bos_token` and `<s>`.
    pub tokens: Vec<(String, String)>,
    /// Contents of all special tokens: the first one behind an answer is its stop string.
    pub special: Vec<String>,
    /// System text of conversations that have none. `None`: the template gets no system message.
    pub system: Option<String>,
    /// Roles of questions and answers. Empty: `user` and `assistant`.
    pub roles: Vec<String>,
    /// String at the end of an answer. `None`: the first special token behind an answer.
    pub stop: Option<String>,
}

/// A compiled Jinja template.
#[derive(Debug)]
pub struct JinjaTemplate {
    settings: JinjaSettings,
    environment: Environment<'static>,
    /// The template marks its answers with `{% generation %}`.
    marks_answers: bool,
    layout: Layout,
}

impl PartialEq for JinjaTemplate {
    fn eq(&self, other: &Self) -> bool {
        self.settings == other.settings
    }
}

/// Name of the template in its environment.
const CHAT: &str = "chat";

impl JinjaTemplate {
    /// Compiles a template and renders a short conversation with it, to see how it writes answers.
    ///
    /// # Errors
    /// Returns [`DataError::ChatTemplate`] if it is no Jinja template, or cannot render a question with its answer.
    pub fn new(settings: JinjaSettings) -> Result<Self, DataError> {
        let invalid = |reason: String| DataError::ChatTemplate {
            name: settings.name.clone(),
            reason,
        };
        if !matches!(settings.roles.len(), 0 | 2) {
            let roles = settings.roles.len();
            return Err(invalid(format!(
                "`roles` must name two roles, those of questions and answers, found {roles}"
            )));
        }
        let (source, marks_answers) = marks::with_generation_calls(&settings.source);
        let mut environment = extensions::environment();
        for (name, token) in &settings.tokens {
            environment.add_global(name.clone(), token.clone());
        }
        environment
            .add_template_owned(CHAT, source)
            .map_err(|error| invalid(format!("is not a Jinja template: {}", sentence(&error))))?;
        let mut template = Self {
            settings,
            environment,
            marks_answers,
            layout: Layout::default(),
        };
        template.layout = Layout::of(&template).map_err(|reason| DataError::ChatTemplate {
            name: template.settings.name.clone(),
            reason,
        })?;
        Ok(template)
    }

    /// Returns the name in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// Returns the string at the end of an answer; empty if the template writes none.
    #[must_use]
    pub fn stop(&self) -> &str {
        &self.layout.stop
    }

    /// Returns what the template writes around a question and its answer.
    pub(super) fn frame(&self) -> &str {
        &self.layout.frame
    }

    pub(super) fn settings(&self) -> &JinjaSettings {
        &self.settings
    }

    pub(super) fn marks_answers(&self) -> bool {
        self.marks_answers
    }

    /// Renders `conversation`.
    ///
    /// # Errors
    /// Returns [`DataError::Conversation`] if the template raises an error, writes other images than the conversation has,
    /// or changes answers such that they cannot be found again.
    pub fn render(&self, conversation: &Conversation) -> Result<Prompt, DataError> {
        self.rendered(conversation).map_err(|reason| DataError::Conversation {
            template: self.settings.name.clone(),
            reason,
        })
    }

    fn rendered(&self, conversation: &Conversation) -> Result<Prompt, String> {
        let Some((last, earlier)) = conversation.turns.split_last() else {
            return Err("it has no turn".to_owned());
        };
        if earlier.iter().any(|turn| turn.answer.is_none()) {
            return Err("only its last turn may lack an answer".to_owned());
        }
        let prompts = last.answer.is_none();
        let (text, answers) = if self.marks_answers {
            let marked = self.text(conversation, prompts, Place::None)?;
            marks::split(&marked).ok_or("its answers are not between `{% generation %}` and `{% endgeneration %}`")?
        } else {
            let text = self.text(conversation, prompts, Place::None)?;
            let answers = self.answers(conversation, &text, prompts)?;
            (text, answers)
        };
        let text = if prompts { text + &self.layout.header } else { text };
        let prompt = Prompt::from_rendered(text, answers);
        let (written, expected) = (prompt.images.len(), conversation.placeholders());
        if written != expected {
            return Err(format!(
                "it writes `{IMAGE_TOKEN}` {written} time(s) for {expected} image(s): neva-run reads images at `{IMAGE_TOKEN}` only"
            ));
        }
        Ok(prompt)
    }

    /// Returns the ranges of the answers in `text`, what the template renders for `conversation`.
    fn answers(&self, conversation: &Conversation, text: &str, prompts: bool) -> Result<Vec<Range<usize>>, String> {
        let answered = conversation.turns.len() - usize::from(prompts);
        if answered == 0 {
            return Ok(Vec::new());
        }
        let outer = |answer: &str| answer.trim().len() != answer.len();
        let has_outer = conversation.turns.iter().filter_map(|turn| turn.answer.as_deref()).any(outer);
        let places: &[Place] = match (has_outer, self.layout.trims) {
            (false, _) => &[Place::Outside],
            (true, false) => &[Place::Outside, Place::Inside],
            (true, true) => &[Place::Inside, Place::Outside],
        };
        for &place in places {
            let marked = self.text(conversation, prompts, place)?;
            match marks::split(&marked) {
                Some((plain, ranges)) if plain == text && ranges.len() == answered => {
                    return Ok(ranges.into_iter().map(|range| self.layout.widened(text, range)).collect());
                }
                _ => {}
            }
        }
        (0..answered)
            .map(|turn| self.answer_by_prefixes(conversation, text, turn))
            .collect()
    }

    /// Returns the range of an answer: from the end of what is rendered before it, to the end of what is rendered with it.
    fn answer_by_prefixes(&self, conversation: &Conversation, text: &str, turn: usize) -> Result<Range<usize>, String> {
        let mut asked = conversation.clone();
        asked.turns.truncate(turn + 1);
        let through = self.text(&asked, false, Place::None)?;
        if let Some(turn) = asked.turns.last_mut() {
            turn.answer = None;
        }
        let before = self.text(&asked, true, Place::None)?;
        if !text.starts_with(&through) || !through.starts_with(&before) {
            return Err(format!(
                "it renders answer {turn} in another way once more messages follow: mark answers in the template with \
                 `{{% generation %}}` and `{{% endgeneration %}}`"
            ));
        }
        Ok(self.layout.narrowed(text, before.len()..through.len()))
    }

    /// Renders `conversation`, with marks around the answers.
    fn text(&self, conversation: &Conversation, prompts: bool, place: Place) -> Result<String, String> {
        self.text_as(self.layout.content, conversation, prompts, place)
    }

    /// Renders `conversation` with contents of another form.
    pub(super) fn text_as(&self, content: Content, conversation: &Conversation, prompts: bool, place: Place) -> Result<String, String> {
        let role = |index: usize, usual: &'static str| self.settings.roles.get(index).map_or(usual, String::as_str);
        let mut messages = Vec::with_capacity(2 * conversation.turns.len() + 1);
        let mut push = |role: &str, text: &str| {
            messages.push(context! { role => role, content => content.of(text) });
        };
        if let Some(system) = conversation.system.as_ref().or(self.settings.system.as_ref()) {
            push("system", system);
        }
        for turn in &conversation.turns {
            push(role(0, "user"), &turn.question);
            if let Some(answer) = &turn.answer {
                push(role(1, "assistant"), &place.mark(answer));
            }
        }
        self.render_messages(&messages, prompts)
    }

    fn render_messages(&self, messages: &[Value], prompts: bool) -> Result<String, String> {
        let context = context! {
            messages => messages,
            add_generation_prompt => prompts,
            tools => (),
            documents => (),
        };
        let template = self.environment.get_template(CHAT).map_err(|error| sentence(&error))?;
        template.render(context).map_err(|error| sentence(&error))
    }
}
