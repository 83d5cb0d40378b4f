//! Parses calls: `optim.Lion(lr=1e-5, betas=[0.9, 0.99])`.
//!
//! YAML would split such a text at its commas, so lists and maps that hold calls are parsed here too. A nested call
//! stays text until the type of its argument is known.

use std::ops::Range;

use crate::config::{
    error::{ConfigError, ProblemKind},
    names,
    node::{Entry, Map, Node, Value},
    origin::{Origin, Source},
    path::Path,
    scalar, yaml,
};

/// Pseudo type name of a list that is written as in Python: `(0.9, 0.999)`, `list(0.9, 0.999)`.
pub(super) const TUPLE: &str = "(tuple)";

/// Python's constructors of lists; a tuple in parentheses has no name.
const LISTS: &[&str] = &["", "list", "tuple", "set"];

/// A parsed call: its name, and its arguments in order.
pub(super) struct ParsedCall {
    pub(super) name: String,
    pub(super) arguments: Map,
}

/// Returns whether all of `text` is a call.
pub(in crate::config) fn is_call(text: &str) -> bool {
    name_len(text).is_some_and(|len| text[len..].starts_with('(')) && text.ends_with(')')
}

/// Returns whether `text` is a call, or a list or map that may hold one.
pub(in crate::config) fn occurs_in(text: &str) -> bool {
    let ends_name = |at: usize| text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
    let starts_item = |at: usize| text[..at].trim_end().ends_with(['[', '{', ',', ':', '(']);
    let opens = |at: usize| ends_name(at) || starts_item(at);
    is_call(text) || (text.starts_with(['[', '{']) && outside_quotes(text).any(|(at, c)| c == '(' && opens(at)))
}

/// Parses `text`, which was written at `origin`, as a value that may hold calls.
///
/// # Errors
/// Brackets or quotes that do not close, and empty items.
pub(in crate::config) fn value(text: &str, origin: &Origin) -> Result<Node, ConfigError> {
    let reader = Reader { text, origin };
    reader.value(0..text.len(), 0)
}

/// Returns true if all of `text` is in parentheses, like a Python tuple, or a call of `list`, `tuple` or `set`.
pub(in crate::config) fn is_tuple(text: &str) -> bool {
    text.ends_with(')') && text.split_once('(').is_some_and(|(name, _)| LISTS.contains(&name))
}

/// Parses the tuple `text` ([`is_tuple`]), written at `origin`, as a list.
///
/// # Errors
/// As [`value`].
pub(super) fn tuple(text: &str, origin: &Origin) -> Result<Node, ConfigError> {
    let reader = Reader { text, origin };
    let start = text.find('(').map_or(0, |open| open + 1);
    let items = reader.items(start..text.len() - 1)?.into_iter();
    let items = items.map(|item| reader.value(item, 0)).collect::<Result<_, _>>()?;
    Ok(Node::new(origin.clone(), Value::Seq(items)))
}

/// Parses the call `text` ([`is_call`]), written at `origin`.
///
/// # Errors
/// An argument without a name that is not the first of a class with a [first argument](names::first_argument), an
/// argument given twice, and the errors of [`value`].
pub(super) fn call(text: &str, origin: &Origin) -> Result<ParsedCall, ConfigError> {
    let reader = Reader { text, origin };
    let len = name_len(text).unwrap_or_default();
    let mut arguments = Map::new();
    for item in reader.items(len + 1..text.len() - 1)? {
        let written = &text[item.clone()];
        let equals = outside_quotes(written).find(|(_, c)| matches!(c, '=' | '(' | '[' | '{'));
        let Some((at, '=')) = equals else {
            if let (true, Some(name)) = (arguments.is_empty(), names::first_argument(&text[..len])) {
                let key = reader.origin(item.clone());
                let node = reader.value(item, 0)?;
                arguments.insert(name.to_owned(), Entry { key, node });
                continue;
            }
            let help = Some(format!("write `{}(NAME={written})`", &text[..len]));
            return Err(reader.error(item, "this argument needs a name", help));
        };
        let name = written[..at].trim();
        let key = item.start..item.start + name.len();
        if name_len(name) != Some(name.len()) {
            return Err(reader.error(key, "this is not the name of an argument", None));
        }
        let node = reader.value(item.start + at + 1..item.end, 0)?;
        let entry = Entry {
            key: reader.origin(key.clone()),
            node,
        };
        if arguments.insert(name.to_owned(), entry).is_some() {
            return Err(reader.error(key, &format!("the argument `{name}` is given twice"), None));
        }
    }
    Ok(ParsedCall {
        name: text[..len].to_owned(),
        arguments,
    })
}

/// Returns the length of the name at the start of `text`: `optim.Lion`, `my_crate::MyType`.
fn name_len(text: &str) -> Option<usize> {
    let in_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | ':' | '-');
    let len = text.find(|c| !in_name(c)).unwrap_or(text.len());
    text.starts_with(|c: char| c.is_alphabetic() || c == '_').then_some(len)
}

/// Returns the characters of `text` outside quotes. A quote opens only where a value may start, so `it's` has none.
fn outside_quotes(text: &str) -> impl Iterator<Item = (usize, char)> {
    let (mut quote, mut escaped, mut before) = (None, false, ',');
    text.char_indices().filter(move |(_, c)| {
        match quote {
            Some('"') if escaped => escaped = false,
            Some('"') if *c == '\\' => escaped = true,
            Some(open) if open == *c => quote = None,
            Some(_) => {}
            None if matches!(c, '"' | '\'') && matches!(before, ',' | '=' | '(' | '[' | '{' | ':') => quote = Some(*c),
            None => {
                if !c.is_whitespace() {
                    before = *c;
                }
                return true;
            }
        }
        before = '"';
        false
    })
}

struct Reader<'a> {
    text: &'a str,
    origin: &'a Origin,
}

impl Reader<'_> {
    fn value(&self, range: Range<usize>, depth: usize) -> Result<Node, ConfigError> {
        let range = self.trimmed(range);
        let text = &self.text[range.clone()];
        let origin = self.origin(range.clone());
        let inner = || range.start + 1..range.end.max(range.start + 2) - 1;
        if depth > yaml::MAX_DEPTH {
            return Err(self.error(range, "lists and maps are nested too deeply here", None));
        }
        let value = match (text.chars().next(), text.chars().next_back()) {
            (None, _) => return Err(self.error(range, "a value is missing here", Some("write an empty text as `\"\"`".to_owned()))),
            (Some('['), Some(']')) if text.len() > 1 => {
                let items = self.items(inner())?.into_iter();
                Value::Seq(items.map(|item| self.value(item, depth + 1)).collect::<Result<_, _>>()?)
            }
            (Some('{'), Some('}')) if text.len() > 1 => {
                let entries = self.items(inner())?.into_iter();
                Value::Map(entries.map(|entry| self.entry(entry, depth + 1)).collect::<Result<_, _>>()?)
            }
            (Some('[' | '{'), _) => return Err(self.error(range, "this bracket is not closed at the end", None)),
            (Some('"' | '\''), _) => Value::Str(self.quoted(range)?),
            _ if scalar::is_null(text) => Value::Null,
            _ => Value::Plain(text.to_owned()),
        };
        Ok(Node::new(origin, value))
    }

    /// Parses `key: value`.
    fn entry(&self, range: Range<usize>, depth: usize) -> Result<(String, Entry), ConfigError> {
        let text = &self.text[range.clone()];
        let colon = outside_quotes(text).find(|(at, c)| *c == ':' && !text[at + 1..].starts_with(':'));
        let Some((at, _)) = colon else {
            return Err(self.error(range, "`:` is missing: an entry of a map is written `key: value`", None));
        };
        let key = self.trimmed(range.start..range.start + at);
        let name = if text.starts_with(['"', '\'']) {
            self.quoted(key.clone())?
        } else {
            self.text[key.clone()].to_owned()
        };
        let node = self.value(range.start + at + 1..range.end, depth)?;
        Ok((
            name,
            Entry {
                key: self.origin(key),
                node,
            },
        ))
    }

    /// Splits at the commas outside brackets and quotes. A trailing comma is allowed.
    fn items(&self, range: Range<usize>) -> Result<Vec<Range<usize>>, ConfigError> {
        let (mut items, mut open, mut start) = (Vec::new(), Vec::new(), range.start);
        for (at, c) in outside_quotes(&self.text[range.clone()]) {
            let at = range.start + at;
            match c {
                '(' | '[' | '{' if open.len() == yaml::MAX_DEPTH => {
                    return Err(self.error(at..at + 1, "calls, lists and maps are nested too deeply here", None));
                }
                '(' | '[' | '{' => open.push((at, c)),
                ')' | ']' | '}' => match (open.pop(), c) {
                    (Some((_, '(')), ')') | (Some((_, '[')), ']') | (Some((_, '{')), '}') => {}
                    _ => return Err(self.error(at..at + 1, "this bracket has no opening bracket", None)),
                },
                ',' if open.is_empty() => {
                    items.push(self.trimmed(start..at));
                    start = at + 1;
                }
                _ => {}
            }
        }
        if let Some((at, _)) = open.pop() {
            return Err(self.error(at..at + 1, "this bracket is not closed", None));
        }
        let last = self.trimmed(start..range.end);
        if !last.is_empty() {
            items.push(last);
        }
        match items.iter().find(|item| item.is_empty()) {
            Some(empty) => Err(self.error(empty.clone(), "an item is missing before this comma", None)),
            None => Ok(items),
        }
    }

    /// Parses a quoted scalar as YAML and returns its text.
    fn quoted(&self, range: Range<usize>) -> Result<String, ConfigError> {
        let text = &self.text[range.clone()];
        let node = yaml::parse(&Source::new("", text)).map_err(|error| self.error(range.clone(), &error.problem.to_string(), None))?;
        match node.value {
            Value::Str(text) => Ok(text),
            _ => Err(self.error(range, "this is not a quoted text", None)),
        }
    }

    fn trimmed(&self, range: Range<usize>) -> Range<usize> {
        let text = &self.text[range.clone()];
        let start = range.end - text.trim_start().len();
        start..start + text.trim().len()
    }

    fn origin(&self, range: Range<usize>) -> Origin {
        self.origin.part(self.text, range.start, range.len())
    }

    fn error(&self, range: Range<usize>, reason: &str, help: Option<String>) -> ConfigError {
        let problem = ProblemKind::Syntax {
            reason: reason.to_owned(),
            help,
        };
        ConfigError::new(Path::default(), Some(self.origin(range)), problem)
    }
}
