//! Contents of messages, as chat templates take them.

use minijinja::{Value, context};

use crate::conversation::IMAGE_TOKEN;

/// Form of the contents of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Content {
    /// A text, as tokenizers' templates have it.
    #[default]
    Text,
    /// A list of parts of the types `text` and `image`, as processors' templates have it.
    Parts,
}

impl Content {
    /// Returns a text in this form.
    pub(super) fn of(self, text: &str) -> Value {
        match self {
            Self::Text => Value::from(text),
            Self::Parts => {
                let mut parts = Vec::new();
                for (i, piece) in text.split(IMAGE_TOKEN).enumerate() {
                    if i > 0 {
                        parts.push(context! { type => "image" });
                    }
                    // The template writes its own line break after an image.
                    let piece = piece.trim_matches('\n');
                    if !piece.is_empty() {
                        parts.push(context! { type => "text", text => piece });
                    }
                }
                Value::from(parts)
            }
        }
    }
}
