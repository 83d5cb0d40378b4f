//! Reads YAML into a [`Node`] tree with the origin of each value.
//!
//! serde-saphyr parses, follows anchors and merge keys, and reports positions. Its meaning of a scalar is not used: the
//! characters are kept, and [`super::de`] parses them once the type is known.

mod content;

use std::{ops::Range, sync::Arc};

use serde_saphyr::{
    Location, Options, Spanned, Tagged,
    options::{DuplicateKeyPolicy, NonFiniteFloatPolicy},
};

use self::content::{Content, Raw};
use super::{
    error::{ConfigError, ProblemKind},
    node::{Entry, Map, Node, Value},
    origin::{Origin, Source, Span},
    path::Path,
    size::MAX_BYTES,
};

/// Maximum number of values in one text, anchors expanded.
const MAX_NODES: usize = 100_000;
/// Maximum nesting of lists and maps, small enough for recursion on any thread's stack.
pub(super) const MAX_DEPTH: usize = 64;

/// Parses the whole of `source` as one YAML document. An empty one is null.
pub(super) fn parse(source: &Arc<Source>) -> Result<Node, ConfigError> {
    Text::new(source, 0, false).parse()
}

/// Parses the part of a `--set` text from byte `base` on.
pub(super) fn parse_override(source: &Arc<Source>, base: usize) -> Result<Node, ConfigError> {
    Text::new(source, base, true).parse()
}

/// A text to parse, and its position in its source.
struct Text<'a> {
    source: &'a Arc<Source>,
    /// The first byte of the source that belongs to the text.
    base: usize,
    /// Always ends with a line end, so that a block scalar at the end has one too.
    text: String,
    is_override: bool,
}

impl<'a> Text<'a> {
    fn new(source: &'a Arc<Source>, base: usize, is_override: bool) -> Self {
        let mut text = source.text()[base..].to_owned();
        if !text.ends_with('\n') {
            text.push('\n');
        }
        Self {
            source,
            base,
            text,
            is_override,
        }
    }

    fn parse(&self) -> Result<Node, ConfigError> {
        if self.source.text().len() > MAX_BYTES {
            return Err(self.error(Span::new(0, 0), &format!("this text is longer than {MAX_BYTES} bytes")));
        }
        if let Some(at) = self.text.find('\0') {
            return Err(self.error(Span::new(at, 1), "this is a NUL byte: the file is not text"));
        }
        let root: Raw = serde_saphyr::from_str_with_options(&self.text, options()).map_err(|error| match self.tab(&error) {
            Some(tab) => self.error(tab, "this tab is in the indentation: YAML is indented with spaces"),
            None => self.error(self.span(error.location()), &reason(&error)),
        })?;
        self.node(root, None)
    }

    /// Returns the tab that caused `error`: one in the indentation of its line or of an adjacent line. The parser reports
    /// the character after the tab, or the line before it.
    fn tab(&self, error: &serde_saphyr::Error) -> Option<Span> {
        use serde_saphyr::Error as E;
        if matches!(
            error,
            E::DuplicateMappingKey { .. } | E::MultipleDocuments { .. } | E::Budget { .. }
        ) {
            return None;
        }
        let at = self.range(error.location()?).start;
        let line = self.text[..at].matches('\n').count();
        let mut start = 0;
        let mut found: Option<(usize, Span)> = None;
        for (number, text) in self.text.split_inclusive('\n').enumerate() {
            let indent = &text[..text.len() - text.trim_start_matches([' ', '\t']).len()];
            let distance = number.abs_diff(line);
            if let Some(tab) = indent.find('\t').filter(|_| !text.trim().is_empty() && distance <= 1)
                && found.is_none_or(|(nearest, _)| distance < nearest)
            {
                found = Some((distance, Span::new(start + tab, 1)));
            }
            start += text.len();
        }
        found.map(|(_, span)| span)
    }

    /// Converts `raw` to a node. A value without characters of its own (a block map, nothing after a colon) has the origin
    /// of its key.
    fn node(&self, raw: Raw, key: Option<&Origin>) -> Result<Node, ConfigError> {
        let written = &self.text[self.range(raw.defined)];
        let span = self.span(Some(raw.defined));
        let Tagged(content, tag) = raw.value;
        let text_tag = matches!(tag.as_deref(), Some("!" | "tag:yaml.org,2002:str"));
        if tag.is_some() && !text_tag {
            return Err(self.error(span, "YAML tags are not used: the type of a field decides how its value is read"));
        }
        let value = match content {
            Content::Null => Value::Null,
            Content::Typed => Value::Plain(written.to_owned()),
            // Only a block scalar includes its line end. An empty scalar that is not null is quoted or a block.
            Content::Str(text) if text_tag || text.is_empty() || written.starts_with(['"', '\'']) || written.ends_with('\n') => {
                Value::Str(text)
            }
            Content::Str(text) => Value::Plain(text),
            Content::Seq(items) => Value::Seq(items.into_iter().map(|item| self.node(item, None)).collect::<Result<_, _>>()?),
            Content::Map(entries) => Value::Map(self.map(entries)?),
        };
        let own = self.origin(span);
        let origin = match (span.len, key, &value) {
            (0, Some(key), _) => key.clone(),
            (0, None, Value::Map(map)) => map.first().map_or(own, |(_, entry)| entry.key.clone()),
            (0, None, Value::Seq(items)) => items.first().map_or(own, |item| item.origin.clone()),
            _ => own,
        };
        Ok(Node::new(origin, value))
    }

    fn map(&self, entries: Vec<(Spanned<String>, Raw)>) -> Result<Map, ConfigError> {
        let entry = |(key, value): (Spanned<String>, Raw)| {
            let origin = self.origin(self.span(Some(key.defined)));
            let node = self.node(value, Some(&origin))?;
            Ok((key.value, Entry { key: origin, node }))
        };
        entries.into_iter().map(entry).collect()
    }

    /// Returns the bytes of the text at `location`, as written.
    fn range(&self, location: Location) -> Range<usize> {
        let span = location.span();
        let byte_of = |chars: u64| {
            let chars = usize::try_from(chars).unwrap_or(usize::MAX);
            self.text.char_indices().nth(chars).map_or(self.text.len(), |(at, _)| at)
        };
        // Errors of the scanner come without byte offsets.
        let (start, end) = match (span.byte_offset(), span.byte_len()) {
            (Some(start), Some(len)) => (start as usize, (start + len) as usize),
            _ => (byte_of(span.offset()), byte_of(span.offset().saturating_add(span.len()))),
        };
        if self.text.get(start..end).is_some() { start..end } else { 0..0 }
    }

    /// Returns the bytes at `location`, without the line end of a block scalar.
    fn span(&self, location: Option<Location>) -> Span {
        let Some(location) = location else { return Span::new(0, 0) };
        let range = self.range(location);
        // The added line end is not in the source.
        let start = range.start.min(self.source.text().len() - self.base);
        Span::new(start, self.text[range].trim_end().len())
    }

    fn origin(&self, span: Span) -> Origin {
        let (source, span) = (Arc::clone(self.source), span.shifted(self.base));
        if self.is_override {
            Origin::Set { source, span }
        } else {
            Origin::File { source, span }
        }
    }

    fn error(&self, span: Span, reason: &str) -> ConfigError {
        // On a command line, the usual cause is text that YAML reads as syntax.
        let (path, text) = (&self.source.text()[..self.base], self.text.trim());
        let quotable = self.is_override && !text.contains(['"', '\\', '\n']);
        let help = match closed(text).filter(|_| self.is_override) {
            Some(closed) => Some(format!("close the bracket: `{path}{closed}`")),
            None => quotable.then(|| format!("write text with special characters in quotes: `{path}\"{text}\"`")),
        };
        let problem = ProblemKind::Syntax {
            reason: reason.to_owned(),
            help,
        };
        ConfigError::new(Path::default(), Some(self.origin(span)), problem)
    }
}

/// Returns `text` with its open brackets closed; `None` if it has none.
fn closed(text: &str) -> Option<String> {
    let mut open = Vec::new();
    for letter in text.chars() {
        match letter {
            '[' => open.push(']'),
            '{' => open.push('}'),
            ']' | '}' => drop(open.pop_if(|closing| *closing == letter)?),
            _ => {}
        }
    }
    let closing: String = open.iter().rev().collect();
    (text.starts_with(['[', '{']) && !closing.is_empty()).then(|| format!("{text}{closing}"))
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: MAX_DEPTH, flow_nesting_limit: MAX_DEPTH, max_nodes: MAX_NODES },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_NODES },
        duplicate_keys: DuplicateKeyPolicy::Error,
        strict_booleans: true,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        with_snippet: false,
    }
}

/// Returns the parser's message in this program's words, without the position, which is underlined.
fn reason(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::Error as E;
    let too_large = || format!("too large: at most {MAX_DEPTH} levels and {MAX_NODES} values, anchors expanded");
    match error {
        E::DuplicateMappingKey { key: Some(key), .. } => format!("the key `{key}` is given twice"),
        E::DuplicateMappingKey { key: None, .. } => "this key is given twice".to_owned(),
        E::MultipleDocuments { .. } => "this is a second YAML document: write only one, without `---`".to_owned(),
        E::Budget { .. } | E::AliasReplayLimitExceeded { .. } | E::AliasExpansionLimitExceeded { .. } => too_large(),
        E::RecursiveReferencesRequireWeakTypes { .. } => "this alias refers to a value that contains it".to_owned(),
        E::AliasError { error, .. } => reason(error),
        // Keys are the only strings that are requested by type.
        E::NullIntoString { .. } | E::Unexpected { .. } => "a key must be text".to_owned(),
        other => match other.to_string() {
            text if text.contains("limit exceeded") => too_large(),
            text => text.split(" at line ").next().unwrap_or(&text).to_owned(),
        },
    }
}
