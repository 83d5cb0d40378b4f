//! A compiled Jinja template and what it is rendered with.

use minijinja::{Environment, Value, context};

use super::{
    content::Content,
    extensions::{self, sentence},
    marks::{self, Place},
};
use crate::conversation::Conversation;

/// Settings of a [`JinjaTemplate`](super::JinjaTemplate).
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
pub(super) struct Renderer {
    pub(super) settings: JinjaSettings,
    environment: Environment<'static>,
    /// The template marks its answers with `{% generation %}`.
    pub(super) marks_answers: bool,
}

/// Name of the template in its environment.
const CHAT: &str = "chat";

impl Renderer {
    /// Compiles a template.
    pub(super) fn new(settings: JinjaSettings) -> Result<Self, String> {
        if !matches!(settings.roles.len(), 0 | 2) {
            let roles = settings.roles.len();
            return Err(format!(
                "`roles` must name two roles, those of questions and answers, found {roles}"
            ));
        }
        let (source, marks_answers) = marks::with_generation_calls(&settings.source);
        let mut environment = extensions::environment();
        for (name, token) in &settings.tokens {
            environment.add_global(name.clone(), token.clone());
        }
        let added = environment.add_template_owned(CHAT, source);
        added.map_err(|error| format!("is not a Jinja template: {}", sentence(&error)))?;
        Ok(Self {
            settings,
            environment,
            marks_answers,
        })
    }

    /// Renders `conversation` with contents of the form `content`, and with marks around the answers.
    pub(super) fn text(&self, content: Content, conversation: &Conversation, prompts: bool, place: Place) -> Result<String, String> {
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
