//! Dotted paths: `finetune.optim.betas[0]`, with quotes around names that need them.

use std::{fmt, str::FromStr};

use super::origin::Span;

/// The path from the root of a configuration to one of its values.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Path(pub Vec<Segment>);

/// One segment of a [`Path`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// Into a map: `.name`, `."odd.name"` or `["odd.name"]`.
    Key(String),
    /// Into a list, from 0: `[2]`.
    Index(usize),
}

/// A text that is not a path, with the offending bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct PathError {
    /// The message, and what to write instead.
    pub reason: String,
    /// The offending bytes of the text.
    pub span: Span,
}

/// A segment and its bytes in the text.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) segment: Segment,
    pub(super) span: Span,
}

/// Maximum number of segments: overrides create maps, and recursion limits the depth of a tree.
const MAX_SEGMENTS: usize = 64;

/// Characters that a name without quotes cannot hold.
const SPECIAL: &[char] = &['.', '[', ']', '"', '\'', '='];

/// Splits `text` into steps. The empty text is the root and has none.
pub(super) fn steps(text: &str) -> Result<Vec<Step>, PathError> {
    let mut cursor = Cursor { text, at: 0 };
    let mut steps = Vec::new();
    while cursor.at < text.len() {
        let start = cursor.at;
        if steps.len() == MAX_SEGMENTS {
            return Err(cursor.error(start, &format!("a path has at most {MAX_SEGMENTS} segments")));
        }
        let segment = match cursor.rest().chars().next() {
            Some('[') => cursor.bracket()?,
            Some('.') if start > 0 => {
                cursor.at += 1;
                cursor.name()?
            }
            _ if start == 0 => cursor.name()?,
            _ => return Err(cursor.error(start, "write `.` or `[` between two segments of a path")),
        };
        let start = start + usize::from(start > 0 && text[start..].starts_with('.'));
        steps.push(Step {
            segment,
            span: Span::new(start, cursor.at - start),
        });
    }
    Ok(steps)
}

/// A position in the text of a path.
struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl Cursor<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    /// Creates an error about the bytes from `start` to the cursor, at least the character at `start`.
    fn error(&self, start: usize, reason: &str) -> PathError {
        let first = self.text[start..].chars().next().map_or(0, char::len_utf8);
        let len = (self.at - start).max(first);
        PathError {
            reason: reason.to_owned(),
            span: Span::new(start, len),
        }
    }

    /// Parses `[0]` or `["name"]`.
    fn bracket(&mut self) -> Result<Segment, PathError> {
        let start = self.at;
        self.at += 1;
        if self.rest().starts_with(['"', '\'']) {
            let name = self.quoted()?;
            if !self.rest().starts_with(']') {
                return Err(self.error(start, "`]` is missing after this name"));
            }
            self.at += 1;
            return Ok(Segment::Key(name));
        }
        let Some(len) = self.rest().find(']') else {
            self.at = self.text.len();
            return Err(self.error(start, "`]` is missing: a list index is written `[0]`"));
        };
        let index = self.rest()[..len].parse();
        self.at += len + 1;
        index.map(Segment::Index).map_err(|_| {
            self.error(
                start,
                "a list index is a number from 0, as in `[0]`; a name in brackets needs quotes",
            )
        })
    }

    /// Parses a name, bare or quoted.
    fn name(&mut self) -> Result<Segment, PathError> {
        if self.rest().starts_with(['"', '\'']) {
            return self.quoted().map(Segment::Key);
        }
        let start = self.at;
        let len = self
            .rest()
            .find(|c: char| SPECIAL.contains(&c) || c.is_whitespace() || c.is_control())
            .unwrap_or(self.rest().len());
        self.at += len;
        let odd = self.rest().chars().next().filter(|c| !matches!(c, '.' | '['));
        if let Some(odd) = odd {
            self.at += odd.len_utf8();
            return Err(self.error(
                self.at - odd.len_utf8(),
                "put a name with this character in quotes, as in `a.\"b c\"`",
            ));
        }
        if len == 0 {
            return Err(self.error(start.min(self.text.len()), "a name is missing here"));
        }
        Ok(Segment::Key(self.text[start..self.at].to_owned()))
    }

    /// Parses `"name"` with `\"` and `\\`, or `'name'` without escapes.
    fn quoted(&mut self) -> Result<String, PathError> {
        let start = self.at;
        let mut chars = self.rest().char_indices();
        let quote = chars.next().map_or('"', |(_, quote)| quote);
        let mut name = String::new();
        while let Some((offset, c)) = chars.next() {
            match c {
                '\\' if quote == '"' => match chars.next() {
                    Some((_, escaped @ ('"' | '\\'))) => name.push(escaped),
                    _ => {
                        self.at = start + offset + 1;
                        return Err(self.error(
                            start + offset,
                            "only the escapes `\\\"` and `\\\\` are known here; single quotes have no escapes",
                        ));
                    }
                },
                c if c == quote => {
                    self.at = start + offset + 1;
                    return Ok(name);
                }
                c => name.push(c),
            }
        }
        self.at = self.text.len();
        Err(self.error(start, "the closing quote is missing"))
    }
}

impl FromStr for Path {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        Ok(Self(steps(text)?.into_iter().map(|step| step.segment).collect()))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Index(index) => write!(f, "[{index}]")?,
                Segment::Key(name) => {
                    if i > 0 {
                        f.write_str(".")?;
                    }
                    write_name(f, name)?;
                }
            }
        }
        Ok(())
    }
}

/// Writes a name: without quotes if it parses as the same name, also before `=`, `+=` and so on.
fn write_name(f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
    if !name.is_empty() && name.chars().all(plain) && !name.ends_with('-') {
        return f.write_str(name);
    }
    write!(f, "\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))
}
