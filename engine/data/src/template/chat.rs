//! The template of a data set: one of the table, or a Jinja template.

use std::sync::Arc;

use super::{ControlStrings, JinjaTemplate, Template, render};
use crate::{conversation::Conversation, error::DataError, prompt::Prompt};

/// A conversation template of either kind.
#[derive(Clone, Debug, PartialEq)]
pub enum ChatTemplate {
    /// A template of the table [`TEMPLATES`](crate::TEMPLATES).
    Table(&'static Template),
    /// A Jinja template: that of a tokenizer, or one of the recipe.
    Jinja(Arc<JinjaTemplate>),
}

impl ChatTemplate {
    /// Returns the template of the table with this name or alias.
    ///
    /// # Errors
    /// Returns [`DataError::UnknownTemplate`], which lists all names.
    pub fn named(name: &str) -> Result<Self, DataError> {
        Template::named(name).map(Self::Table)
    }

    /// Returns the name of the template, for messages.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Table(template) => template.name,
            Self::Jinja(template) => template.name(),
        }
    }

    /// Returns the string at the end of an answer, at which generation stops. Empty: the template writes none.
    #[must_use]
    pub fn stop(&self) -> &str {
        match self {
            Self::Table(template) => template.stop,
            Self::Jinja(template) => template.stop(),
        }
    }

    /// Renders `conversation`.
    ///
    /// # Errors
    /// Returns [`DataError::Conversation`] if the template cannot render the conversation.
    pub fn render(&self, conversation: &Conversation) -> Result<Prompt, DataError> {
        match self {
            Self::Table(template) => render(template, conversation),
            Self::Jinja(template) => template.render(conversation),
        }
    }

    /// Returns the control strings of the template, each of which should be one token.
    #[must_use]
    pub fn control_strings(&self) -> ControlStrings {
        match self {
            Self::Table(template) => ControlStrings::of_table(template),
            Self::Jinja(template) => ControlStrings::of_text(template.stop(), template.frame()),
        }
    }
}

impl From<&'static Template> for ChatTemplate {
    fn from(template: &'static Template) -> Self {
        Self::Table(template)
    }
}
