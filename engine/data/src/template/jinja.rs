//! Jinja chat templates, rendered as Hugging Face's `apply_chat_template` does.
//!
//! Answers are found without knowing the template: they are rendered once with marks around them, and the result without
//! marks must equal what the template renders without them. Where it does not (a template that looks into answers), the
//! conversation is rendered up to each answer and through it. A template with Hugging Face's `{% generation %}` says itself
//! what is an answer.

use std::ops::Range;

use super::{
    content::Content,
    layout::Layout,
    marks::{self, Place},
    renderer::{JinjaSettings, Renderer},
};
use crate::{
    conversation::{Conversation, IMAGE_TOKEN},
    error::DataError,
    prompt::Prompt,
};

/// A compiled Jinja template.
#[derive(Debug)]
pub struct JinjaTemplate {
    renderer: Renderer,
    layout: Layout,
}

impl PartialEq for JinjaTemplate {
    fn eq(&self, other: &Self) -> bool {
        self.renderer.settings == other.renderer.settings
    }
}

impl JinjaTemplate {
    /// Compiles a template and renders a short conversation with it, to see how it writes answers.
    ///
    /// # Errors
    /// Returns [`DataError::ChatTemplate`] if it is no Jinja template, or cannot render a question with its answer.
    pub fn new(settings: JinjaSettings) -> Result<Self, DataError> {
        let name = settings.name.clone();
        let found = Renderer::new(settings).and_then(|renderer| Ok((Layout::of(&renderer)?, renderer)));
        match found {
            Ok((layout, renderer)) => Ok(Self { renderer, layout }),
            Err(reason) => Err(DataError::ChatTemplate { name, reason }),
        }
    }

    /// Returns the name in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.renderer.settings.name
    }

    /// Returns the string at the end of an answer; empty if the template writes none.
    #[must_use]
    pub fn stop(&self) -> &str {
        &self.layout.stop
    }

    /// Returns its settings.
    pub(super) fn settings(&self) -> &JinjaSettings {
        &self.renderer.settings
    }

    /// Returns the form of contents that it takes.
    pub(super) fn content(&self) -> Content {
        self.layout.content
    }

    /// Returns what ends a prompt, if the template does not write it itself.
    pub(super) fn header(&self) -> &str {
        &self.layout.header
    }

    /// Returns what the template writes around a question and its answer.
    pub(super) fn frame(&self) -> &str {
        &self.layout.frame
    }

    /// Renders `conversation`.
    ///
    /// # Errors
    /// Returns [`DataError::Conversation`] if the template raises an error, writes other images than the conversation has,
    /// or changes answers such that they cannot be found again.
    pub fn render(&self, conversation: &Conversation) -> Result<Prompt, DataError> {
        self.rendered(conversation).map_err(|reason| DataError::Conversation {
            template: self.renderer.settings.name.clone(),
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
        let (text, answers) = if self.renderer.marks_answers {
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
        self.renderer.text(self.layout.content, conversation, prompts, place)
    }
}
