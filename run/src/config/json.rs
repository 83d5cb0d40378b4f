//! Reads JSON with positions and writes it without loss.
//!
//! JSON has no number for infinities and NaN: they are the texts `".inf"`, `"-.inf"` and `".nan"`, which a text field
//! reads as text and a number field as numbers.

use std::sync::Arc;

use serde::de::IgnoredAny;

use super::{
    error::{ConfigError, ProblemKind},
    node::{Entry, Map, Node, Value, resolve},
    origin::{Origin, Source, Span},
    path::Path,
    scalar,
    size::MAX_BYTES,
    visible::visible,
    yaml,
};

/// Texts that mean numbers.
const NUMBERS: &[&str] = &[".inf", "-.inf", ".nan"];

/// Parses the whole of `source` as one JSON document, strictly: no comments, no commas at the end.
pub(super) fn parse(source: &Arc<Source>) -> Result<Node, ConfigError> {
    let mut reader = Reader { source, at: 0 };
    if source.text().len() > MAX_BYTES {
        return Err(reader.error(Span::new(0, 0), &format!("this text is longer than {MAX_BYTES} bytes")));
    }
    // serde_json reports syntax errors; the reader below records the position of each value.
    serde_json::from_str::<IgnoredAny>(source.text()).map_err(|error| {
        let span = place(source.text(), error.line(), error.column());
        reader.error(span, &reason(&error, &source.text()[span.offset..]))
    })?;
    reader.value(0)
}

/// Returns the parser's message in this program's words, without the position, which is underlined.
fn reason(error: &serde_json::Error, rest: &str) -> String {
    let message = error.to_string();
    match message.split(" at line ").next().unwrap_or(&message) {
        _ if error.is_eof() => "the text ends too early".to_owned(),
        "key must be a string" | "expected value" if rest.starts_with(['}', ']']) => {
            "JSON allows no comma before a closing bracket".to_owned()
        }
        "key must be a string" | "expected value" => "a value is missing here; JSON needs double quotes around texts and keys".to_owned(),
        other => other.to_owned(),
    }
}

/// Writes the tree as JSON. Plain scalars are resolved as if no type were known, so `1_000` becomes a number; for exact
/// values write a typed value, [`to_node`](super::to_node).
pub fn to_json_string(node: &Node) -> String {
    let mut json = String::new();
    write(node, 0, &mut json);
    json.push('\n');
    json
}

fn write(node: &Node, indent: usize, json: &mut String) {
    let line = |json: &mut String, indent: usize| {
        json.push('\n');
        json.extend(std::iter::repeat_n("  ", indent));
    };
    match &node.value {
        Value::Null => json.push_str("null"),
        Value::Plain(text) => write(&Node::new(node.origin.clone(), resolve(text)), indent, json),
        Value::Str(text) => json.push_str(&quoted(text)),
        Value::Bool(value) => json.push_str(if *value { "true" } else { "false" }),
        Value::Int(value) => json.push_str(&value.to_string()),
        Value::Float(value) if value.is_finite() => json.push_str(&scalar::float_text(*value)),
        Value::Float(value) => json.push_str(&quoted(&scalar::float_text(*value))),
        Value::Seq(items) => {
            let is_scalar = |item: &Node| !matches!(item.value, Value::Seq(_) | Value::Map(_));
            let inline = items.iter().all(is_scalar);
            json.push('[');
            for (at, item) in items.iter().enumerate() {
                json.push_str(if at == 0 {
                    ""
                } else if inline {
                    ", "
                } else {
                    ","
                });
                if !inline {
                    line(json, indent + 1);
                }
                write(item, indent + 1, json);
            }
            if !inline {
                line(json, indent);
            }
            json.push(']');
        }
        Value::Map(map) => {
            json.push('{');
            for (at, (name, entry)) in map.iter().enumerate() {
                json.push_str(if at == 0 { "" } else { "," });
                line(json, indent + 1);
                json.push_str(&quoted(name));
                json.push_str(": ");
                write(&entry.node, indent + 1, json);
            }
            if !map.is_empty() {
                line(json, indent);
            }
            json.push('}');
        }
    }
}

/// Writes a text with control characters escaped.
pub(super) fn quoted(text: &str) -> String {
    visible(&serde_json::Value::from(text).to_string()).into_owned()
}

/// Returns the character of `text` at a line and column, both from 1, the column in bytes.
pub(super) fn place(text: &str, line: usize, column: usize) -> Span {
    let before: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let mut at = (before + column.saturating_sub(1)).min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    Span::new(at, text[at..].chars().next().map_or(0, char::len_utf8))
}

/// A position in a text that is known to be JSON.
struct Reader<'a> {
    source: &'a Arc<Source>,
    at: usize,
}

impl Reader<'_> {
    fn value(&mut self, depth: usize) -> Result<Node, ConfigError> {
        let start = self.skip_space();
        if depth > yaml::MAX_DEPTH {
            let reason = format!("too large: at most {} levels", yaml::MAX_DEPTH);
            return Err(self.error(Span::new(start, 1), &reason));
        }
        let value = match self.byte() {
            b'{' => Value::Map(self.map(depth)?),
            b'[' => Value::Seq(self.list(depth)?),
            b'"' => match self.string()? {
                number if NUMBERS.contains(&number.as_str()) => Value::Plain(number),
                text => Value::Str(text),
            },
            _ => match self.word() {
                "null" => Value::Null,
                word => Value::Plain(word.to_owned()),
            },
        };
        Ok(Node::new(self.origin(Span::new(start, self.at - start)), value))
    }

    fn map(&mut self, depth: usize) -> Result<Map, ConfigError> {
        let mut map = Map::new();
        while self.next_item(b'}') {
            let start = self.skip_space();
            let name = self.string()?;
            let span = Span::new(start, self.at - start);
            self.skip_space();
            // The colon.
            self.at += 1;
            let node = self.value(depth + 1)?;
            let key = self.origin(span);
            if map.contains_key(&name) {
                return Err(self.error(span, &format!("the key `{name}` is given twice")));
            }
            map.insert(name, Entry { key, node });
        }
        Ok(map)
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, ConfigError> {
        let mut items = Vec::new();
        while self.next_item(b']') {
            items.push(self.value(depth + 1)?);
        }
        Ok(items)
    }

    /// Skips the bracket or comma before an item, or the bracket that ends the list. Returns whether an item follows.
    fn next_item(&mut self, end: u8) -> bool {
        self.skip_space();
        let opens = matches!(self.byte(), b'{' | b'[');
        let ends = self.byte() == end;
        self.at += 1;
        if opens {
            self.skip_space();
            if self.byte() == end {
                self.at += 1;
                return false;
            }
        }
        // Also stops at the end of the text, which valid JSON does not reach here.
        !ends && self.at < self.source.text().len()
    }

    /// Reads the string that starts here and undoes its escapes.
    fn string(&mut self) -> Result<String, ConfigError> {
        let start = self.at;
        let mut escaped = false;
        self.at += 1;
        while self.at < self.source.text().len() && (escaped || self.byte() != b'"') {
            escaped = !escaped && self.byte() == b'\\';
            self.at += 1;
        }
        self.at = (self.at + 1).min(self.source.text().len());
        serde_json::from_str(&self.source.text()[start..self.at]).map_err(|_| {
            let span = Span::new(start, self.at - start);
            self.error(span, "this string has an escape for an invalid character")
        })
    }

    /// Reads a number, `true`, `false` or `null`.
    fn word(&mut self) -> &str {
        let rest = &self.source.text()[self.at..];
        let len = rest
            .find(|c: char| c.is_ascii_whitespace() || matches!(c, ',' | ']' | '}' | ':'))
            .unwrap_or(rest.len());
        self.at += len;
        &rest[..len]
    }

    /// Skips white space; returns the offset after it.
    fn skip_space(&mut self) -> usize {
        while self.byte().is_ascii_whitespace() {
            self.at += 1;
        }
        self.at
    }

    /// Returns the byte here; 0 at the end.
    fn byte(&self) -> u8 {
        self.source.text().as_bytes().get(self.at).copied().unwrap_or(0)
    }

    fn origin(&self, span: Span) -> Origin {
        let source = Arc::clone(self.source);
        Origin::File { source, span }
    }

    fn error(&self, span: Span, reason: &str) -> ConfigError {
        let problem = ProblemKind::Syntax {
            reason: reason.to_owned(),
            help: None,
        };
        ConfigError::new(Path::default(), Some(self.origin(span)), problem)
    }
}
