//! JSON, read with positions and written without loss.
//!
//! JSON has no number for infinities and for "not a number": they are the texts `".inf"`, `"-.inf"` and
//! `".nan"`, which a field of text takes as texts and one of numbers as numbers.

use std::sync::Arc;

use serde::de::IgnoredAny;

use super::{
    error::{ConfigError, Problem},
    file::MAX_BYTES,
    node::{Entry, Map, Node, Value},
    origin::{Origin, Source, Span},
    path::Path,
    scalar,
    visible::visible,
    yaml,
};

/// Texts that stand for numbers.
const NUMBERS: &[&str] = &[".inf", "-.inf", ".nan"];

/// Parses the whole of `source` as one JSON document, strictly: no comments, no commas at the end.
pub(super) fn parse(source: &Arc<Source>) -> Result<Node, ConfigError> {
    let mut reader = Reader { source, at: 0 };
    if source.text().len() > MAX_BYTES {
        return Err(reader.error(Span::new(0, 0), &format!("this text is longer than {MAX_BYTES} bytes")));
    }
    // serde_json says what is wrong; what is left to do here is to note where each value stands.
    serde_json::from_str::<IgnoredAny>(source.text()).map_err(|error| {
        let span = reader.place(error.line(), error.column());
        reader.error(span, &reason(&error, &source.text()[span.offset..]))
    })?;
    reader.value(0)
}

/// The parser's errors in the words of this program, without their position, which is underlined.
fn reason(error: &serde_json::Error, rest: &str) -> String {
    let message = error.to_string();
    match message.split(" at line ").next().unwrap_or(&message) {
        _ if error.is_eof() => "the text ends too early".to_owned(),
        "key must be a string" | "expected value" if rest.starts_with(['}', ']']) => {
            "JSON has no comma in front of a closing bracket".to_owned()
        }
        "key must be a string" | "expected value" => "a value is missing here; in JSON, texts and keys have double quotes".to_owned(),
        other => other.to_owned(),
    }
}

/// The tree as JSON. Scalars as typed become what they mean where no type asks, so
/// `1_000` is a number here; write a typed value, [`to_node`](super::to_node), where that matters.
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
        Value::Plain(text) => write(&Node::new(node.origin.clone(), scalar::resolve(text)), indent, json),
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

/// A text, in characters that a terminal shows.
pub(super) fn quoted(text: &str) -> String {
    visible(&serde_json::Value::from(text).to_string()).into_owned()
}

/// A position in a text that is JSON.
struct Reader<'a> {
    source: &'a Arc<Source>,
    at: usize,
}

impl Reader<'_> {
    fn value(&mut self, depth: usize) -> Result<Node, ConfigError> {
        let start = self.next();
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
        while self.goes_on(b'}') {
            let start = self.next();
            let name = self.string()?;
            let span = Span::new(start, self.at - start);
            self.next();
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
        while self.goes_on(b']') {
            items.push(self.value(depth + 1)?);
        }
        Ok(items)
    }

    /// Passes the bracket or comma in front of an item, or the one that ends the list.
    fn goes_on(&mut self, end: u8) -> bool {
        self.next();
        let opens = matches!(self.byte(), b'{' | b'[');
        let ends = self.byte() == end;
        self.at += 1;
        if opens {
            self.next();
            if self.byte() == end {
                self.at += 1;
                return false;
            }
        }
        // The end of the text ends all lists: the text was JSON, so this is not reached.
        !ends && self.at < self.source.text().len()
    }

    /// The string that starts here, with its escapes undone.
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
            self.error(span, "this string has an escape that stands for no character")
        })
    }

    /// A number, or the name of a value.
    fn word(&mut self) -> &str {
        let rest = &self.source.text()[self.at..];
        let len = rest
            .find(|c: char| c.is_ascii_whitespace() || matches!(c, ',' | ']' | '}' | ':'))
            .unwrap_or(rest.len());
        self.at += len;
        &rest[..len]
    }

    /// Passes blanks; the place behind them.
    fn next(&mut self) -> usize {
        while self.byte().is_ascii_whitespace() {
            self.at += 1;
        }
        self.at
    }

    /// The byte here; 0 at the end.
    fn byte(&self) -> u8 {
        self.source.text().as_bytes().get(self.at).copied().unwrap_or(0)
    }

    /// The character at a line and column, both from 1, the column in bytes.
    fn place(&self, line: usize, column: usize) -> Span {
        let text = self.source.text();
        let before: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
        let mut at = (before + column.saturating_sub(1)).min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        Span::new(at, text[at..].chars().next().map_or(0, char::len_utf8))
    }

    fn origin(&self, span: Span) -> Origin {
        let source = Arc::clone(self.source);
        Origin::File { source, span }
    }

    fn error(&self, span: Span, reason: &str) -> ConfigError {
        let problem = Problem::Syntax {
            reason: reason.to_owned(),
            help: None,
        };
        ConfigError::new(Path::default(), Some(self.origin(span)), problem)
    }
}
