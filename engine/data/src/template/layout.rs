//! What a Jinja template writes around an answer, seen in a short conversation.

use std::ops::Range;

use super::{
    content::Content,
    marks::{self, Place},
    renderer::Renderer,
};
use crate::conversation::{Conversation, Turn};

/// What a template writes around an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) content: Content,
    /// The template removes the whitespace around answers.
    pub(super) trims: bool,
    /// Text between the generation prompt and an answer; generation has to produce it, so it is part of the labels.
    gap: String,
    /// Text in front of `gap` if the template has no generation prompt; it ends a prompt, as in training.
    pub(super) header: String,
    /// Text after an answer up to the end of its stop string.
    pub(super) stop: String,
    /// What the template writes around a question and its answer.
    pub(super) frame: String,
}

const QUESTION: &str = "Question0";
const ANSWER: &str = "Answer0";

impl Layout {
    /// Renders a short conversation with `template`.
    pub(super) fn of(template: &Renderer) -> Result<Self, String> {
        let one = |answer: Option<&str>| Conversation {
            system: None,
            turns: vec![Turn {
                question: QUESTION.to_owned(),
                answer: answer.map(str::to_owned),
            }],
        };
        let mut tried = Vec::new();
        let mut found = None;
        for content in [Content::Text, Content::Parts] {
            match template.text(content, &one(Some(ANSWER)), false, Place::None) {
                Ok(text) if text.contains(QUESTION) && text.contains(ANSWER) => {
                    found = Some((content, text));
                    break;
                }
                Ok(_) => tried.push("it does not write the texts of a question and its answer".to_owned()),
                Err(reason) => tried.push(reason),
            }
        }
        let Some((content, text)) = found else {
            return Err(tried.swap_remove(0));
        };
        let render = |answer: Option<&str>, prompts, place| template.text(content, &one(answer), prompts, place);
        let place = if template.marks_answers { Place::None } else { Place::Outside };
        let marked = render(Some(ANSWER), false, place)?;
        let (plain, ranges) = marks::split(&marked).unwrap_or_default();
        let mut layout = Self {
            content,
            frame: plain.replace(QUESTION, "").replace(ANSWER, ""),
            ..Self::default()
        };
        let Some(range) = ranges.last().cloned() else {
            return Err("its answers cannot be told from its other text".to_owned());
        };
        if template.marks_answers {
            // The template says what an answer is, its end included.
            layout.stop = plain[range]
                .rsplit_once(ANSWER)
                .map(|(_, after)| after.trim_end().to_owned())
                .unwrap_or_default();
            return Ok(layout);
        }
        if plain != text {
            return Err("its answers cannot be told from its other text".to_owned());
        }
        layout.trims = render(Some(&format!("\n {ANSWER} \n")), false, Place::None)? == text;
        let preceding = |rendered: &str| {
            let is_prefix = text.starts_with(rendered) && rendered.len() <= range.start;
            is_prefix.then(|| text[rendered.len()..range.start].to_owned())
        };
        // Without a prompt of its own, the template says nothing about what stands before an answer.
        if let (Ok(before), Ok(prompt)) = (render(None, false, Place::None), render(None, true, Place::None)) {
            let ahead = preceding(&prompt).unwrap_or_default();
            let header = if prompt == before { ahead.trim_end_matches(' ') } else { "" };
            layout.gap = ahead[header.len()..].to_owned();
            layout.header = header.to_owned();
        }
        let after = &text[range.end..];
        let settings = &template.settings;
        let stop =
            match &settings.stop {
                Some(stop) => Some(after.find(stop.as_str()).map(|at| at + stop.len()).ok_or_else(|| {
                    format!("the stop string {stop:?} does not follow an answer: after it the template writes {after:?}")
                })?),
                None => {
                    let ends = settings.special.iter().filter(|token| !token.is_empty());
                    ends.filter_map(|token| after.find(token.as_str()).map(|at| (at, at + token.len())))
                        .min_by_key(|&(at, end)| (at, std::cmp::Reverse(end)))
                        .map(|(_, end)| end)
                }
            };
        layout.stop = stop.map(|end| after[..end].to_owned()).unwrap_or_default();
        Ok(layout)
    }

    /// Returns the range of an answer with what generation has to produce before and after its text.
    pub(super) fn widened(&self, text: &str, range: Range<usize>) -> Range<usize> {
        let start = range.start
            - if text[..range.start].ends_with(&self.gap) {
                self.gap.len()
            } else {
                0
            };
        let end = range.end
            + if text[range.end..].starts_with(&self.stop) {
                self.stop.len()
            } else {
                0
            };
        start..end
    }

    /// Returns the range of an answer within `range`, which may start with its header and end after its stop string.
    pub(super) fn narrowed(&self, text: &str, range: Range<usize>) -> Range<usize> {
        let turn = &text[range.clone()];
        let start = if turn.starts_with(&self.header) { self.header.len() } else { 0 };
        let end = match turn.rfind(&self.stop) {
            Some(at) if !self.stop.is_empty() && at >= start => at + self.stop.len(),
            _ => turn.len(),
        };
        range.start + start..range.start + end
    }
}
