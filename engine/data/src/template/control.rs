//! Control strings of templates, such as `</s>` and `<|eot_id|>`, which tokenizers have as single tokens.

use super::Template;

/// Control strings of a template.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ControlStrings {
    /// Those in the stop string. A model whose tokenizer spells one with several tokens never ends an answer as its
    /// serving code expects.
    pub stop: Vec<String>,
    /// Those around questions and answers.
    pub headers: Vec<String>,
}

impl ControlStrings {
    /// Returns the control strings of a template of the table.
    pub(super) fn of_table(template: &Template) -> Self {
        let Template {
            begin,
            system_frame,
            user,
            assistant,
            after,
            between,
            ..
        } = *template;
        let parts = [begin, system_frame.0, system_frame.1, user.0, user.1, assistant, after, between];
        let headers = if template.text_headers { Vec::new() } else { parts.to_vec() };
        Self::of_parts(template.stop, &headers)
    }

    /// Returns the control strings of a Jinja template: those of its stop string, and of what it renders around texts.
    pub(super) fn of_text(stop: &str, frame: &str) -> Self {
        Self::of_parts(stop, &[frame])
    }

    fn of_parts(stop: &str, parts: &[&str]) -> Self {
        let mut found = Self {
            stop: strings(stop),
            headers: Vec::new(),
        };
        for string in parts.iter().flat_map(|part| strings(part)) {
            if !found.stop.contains(&string) && !found.headers.contains(&string) {
                found.headers.push(string);
            }
        }
        found
    }
}

/// Returns the control strings in a text: `<|...|>`, and words in angle brackets that models have as tokens.
fn strings(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (start, _) in text.match_indices('<') {
        let rest = &text[start..];
        let Some(end) = rest.find('>') else { continue };
        let string = &rest[..=end];
        let word = &string[1..string.len() - 1];
        let is_framed = word.len() > 2 && word.starts_with('|') && word.ends_with('|') && !word.contains(char::is_whitespace);
        // Llama 2's `<<SYS>>` and `<</SYS>>` are text in its own tokenizer.
        let is_named = matches!(word, "s" | "/s" | "bos" | "eos" | "start_of_turn" | "end_of_turn") || word.starts_with("extra_id_");
        if (is_framed || is_named) && !found.iter().any(|known| known == string) {
            found.push(string.to_owned());
        }
    }
    found
}
