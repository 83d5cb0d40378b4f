//! A rendered conversation: its text, with the ranges of answers and image placeholders.

use std::ops::Range;

use crate::conversation::{IMAGE_TOKEN, LITERAL};

/// A rendered conversation. All ranges are byte ranges of `text`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    /// The whole text.
    pub text: String,
    /// Range of each answer with its stop string: exactly the text that the model has to generate.
    pub answers: Vec<Range<usize>>,
    /// Range of each [`IMAGE_TOKEN`] that stands for an image.
    pub images: Vec<Range<usize>>,
}

impl Prompt {
    /// Creates a prompt from what a template rendered: finds the placeholders, and removes the marks of `<image>` as text.
    pub(crate) fn from_rendered(mut text: String, mut answers: Vec<Range<usize>>) -> Self {
        let found = text.match_indices(IMAGE_TOKEN);
        let mut images: Vec<_> = found.map(|(start, mark)| start..start + mark.len()).collect();
        if text.contains(LITERAL) {
            let marks: Vec<usize> = text.match_indices(LITERAL).map(|(at, _)| at).collect();
            let moved = |at: usize| at - LITERAL.len_utf8() * marks.partition_point(|&mark| mark < at);
            for range in answers.iter_mut().chain(&mut images) {
                *range = moved(range.start)..moved(range.end);
            }
            text.retain(|c| c != LITERAL);
        }
        Self { text, answers, images }
    }
}
