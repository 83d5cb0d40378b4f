//! Origins of values: the text and the bytes in it.

use std::{borrow::Cow, fmt, sync::Arc};

use miette::NamedSource;

use super::visible::visible;

/// A text that configuration was read from, with its name in diagnostics.
///
/// Shared by every [`Origin`] that points into it, so that a diagnostic can quote the line.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    text: NamedSource<String>,
    /// The text with control characters escaped, if it has any.
    shown: Option<String>,
}

impl Source {
    /// Creates a source `name` (a file name, or `--set`) with `text`.
    pub fn new(name: impl AsRef<str>, text: impl Into<String>) -> Arc<Self> {
        let text = text.into();
        let shown = match visible(&text) {
            Cow::Borrowed(_) => None,
            Cow::Owned(shown) => Some(shown),
        };
        Arc::new(Self {
            text: NamedSource::new(name, text),
            shown,
        })
    }

    /// Returns the name in diagnostics.
    pub fn name(&self) -> &str {
        self.text.name()
    }

    /// Returns the whole text.
    pub fn text(&self) -> &str {
        self.text.inner()
    }

    /// Returns the source that miette quotes lines from.
    pub(super) fn named(&self) -> &NamedSource<String> {
        &self.text
    }

    /// Returns the text with control characters escaped ([`visible`]).
    pub(super) fn shown(&self) -> &str {
        self.shown.as_deref().unwrap_or(self.text())
    }
}

/// A range of bytes in a [`Source`]. Always on character boundaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First byte, counted from the start of the text.
    pub offset: usize,
    /// Number of bytes; 0 marks a place between two characters.
    pub len: usize,
}

impl Span {
    pub(super) fn new(offset: usize, len: usize) -> Self {
        Self { offset, len }
    }

    /// Returns the range shifted by `by` bytes.
    pub(super) fn shifted(self, by: usize) -> Self {
        Self::new(self.offset + by, self.len)
    }
}

/// Where a [`Node`](super::Node) was written.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Origin {
    /// In a configuration file.
    File {
        /// The file and its text.
        source: Arc<Source>,
        /// The characters of the value, or of the key that names a block map or list.
        span: Span,
    },
    /// In the text of one `--set`.
    Set {
        /// The whole argument, `path=value`.
        source: Arc<Source>,
        /// The characters of the value.
        span: Span,
    },
    /// By the code of a recipe; there is no text to quote.
    Recipe {
        /// The recipe's name.
        name: Arc<str>,
    },
    /// Nowhere: it is the default of its type.
    Default,
}

impl Origin {
    /// Creates the origin of values that the recipe `name` computed.
    pub fn recipe(name: &str) -> Self {
        Self::Recipe { name: name.into() }
    }

    /// Creates the origin of `len` bytes at `offset` of a file.
    pub(crate) fn text(source: &Arc<Source>, offset: usize, len: usize) -> Self {
        Self::File {
            source: Arc::clone(source),
            span: Span::new(offset, len),
        }
    }

    /// Returns the text and the range in it, if there is a text.
    pub fn span(&self) -> Option<(&Arc<Source>, Span)> {
        match self {
            Self::File { source, span } | Self::Set { source, span } => Some((source, *span)),
            Self::Recipe { .. } | Self::Default => None,
        }
    }

    /// Returns the origin of `len` bytes at `offset` of `text`, which was written here. Returns all of this origin if its
    /// characters differ from `text`, as for a text with escapes.
    pub(super) fn part(&self, text: &str, offset: usize, len: usize) -> Self {
        let mut origin = self.clone();
        if let Self::File { source, span } | Self::Set { source, span } = &mut origin
            && source.text().get(span.offset..span.offset + span.len) == Some(text)
        {
            *span = Span::new(span.offset + offset, len);
        }
        origin
    }

    /// Returns line and column of the first character, both from 1, the column in characters.
    pub fn line_column(&self) -> Option<(usize, usize)> {
        let (source, span) = self.span()?;
        let before = source.text().get(..span.offset)?;
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or(before).chars().count() + 1;
        Some((line, column))
    }
}

/// `train.yaml:4:7`, `--set optim.lr=fast`, `recipe llava15_7b`, `default`.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { source, .. } => {
                f.write_str(source.name())?;
                match self.line_column() {
                    Some((line, column)) => write!(f, ":{line}:{column}"),
                    None => Ok(()),
                }
            }
            Self::Set { source, .. } => write!(f, "--set {}", source.text()),
            Self::Recipe { name } => write!(f, "recipe {name}"),
            Self::Default => f.write_str("default"),
        }
    }
}
