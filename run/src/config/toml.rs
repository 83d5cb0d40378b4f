//! Reads TOML with positions and writes it without loss.
//!
//! TOML has no null: it is written `{ _null_ = true }`, because a missing key means the default, which may differ. An
//! integer beyond 64 bits is a text, which a number field reads as a number.

use std::{ops::Range, sync::Arc};

use toml_edit::{Array, Document, DocumentMut, Formatted, InlineTable, Item, Key, Table, Value as Toml};

use super::{
    error::{ConfigError, ProblemKind},
    json,
    node::{Entry, Map, Node, Value, resolve},
    origin::{Origin, Source, Span},
    path::Path,
    scalar,
    size::MAX_BYTES,
    visible::is_hidden,
    yaml,
};

/// The key of the table that means null.
const NULL: &str = "_null_";

/// Parses the whole of `source` as one TOML document, which is a map.
pub(super) fn parse(source: &Arc<Source>) -> Result<Node, ConfigError> {
    let reader = Reader { source };
    if source.text().len() > MAX_BYTES {
        return Err(reader.error(Some(0..0), &format!("this text is longer than {MAX_BYTES} bytes")));
    }
    let document = Document::parse(source.text()).map_err(|error| reader.error(error.span(), error.message().trim()))?;
    let top = reader.origin(Some(0..0));
    let value = reader.table(document.as_table(), 0)?;
    let first = value.first().map_or(top, |(_, entry)| entry.key.clone());
    Ok(Node::new(first, Value::Map(value)))
}

/// Writes the tree, a map, as TOML. Plain scalars are resolved as in [`to_json_string`](super::to_json_string).
///
/// # Errors
/// A tree that is not a map.
pub fn to_toml_string(node: &Node) -> Result<String, ConfigError> {
    let Some(map) = node.as_map() else {
        let problem = ProblemKind::WrongType {
            expected: "a map, for a TOML file".to_owned(),
            found: node.describe(),
            help: None,
        };
        return Err(ConfigError::new(Path::default(), Some(node.origin.clone()), problem));
    };
    Ok(DocumentMut::from(table(map)).to_string())
}

fn table(map: &Map) -> Table {
    let mut table = Table::new();
    for (name, entry) in map {
        let item = match &entry.node.value {
            Value::Map(map) if !map.is_empty() => {
                let mut inner = self::table(map);
                // A table that holds only tables needs no header.
                let is_implicit = inner.iter().all(|(_, item)| item.is_table());
                inner.set_implicit(is_implicit);
                Item::Table(inner)
            }
            _ => Item::Value(value(&entry.node)),
        };
        table.insert(name, item);
    }
    table
}

/// Converts a value to one on a single line.
fn value(node: &Node) -> Toml {
    match &node.value {
        Value::Null => Toml::InlineTable(InlineTable::from_iter([(NULL, true)])),
        Value::Plain(text) => value(&Node::new(node.origin.clone(), resolve(text))),
        Value::Str(text) => string(text),
        Value::Bool(value) => Toml::from(*value),
        Value::Int(value) => i64::try_from(*value).map_or_else(|_| Toml::from(value.to_string()), Toml::from),
        Value::Float(value) => Toml::Float(Formatted::new(*value)),
        Value::Seq(items) => Toml::Array(items.iter().map(value).collect::<Array>()),
        Value::Map(map) => Toml::InlineTable(map.iter().map(|(name, entry)| (name, value(&entry.node))).collect()),
    }
}

/// Converts a text; control characters are written as escapes, which JSON and TOML share.
fn string(text: &str) -> Toml {
    let escaped = text.chars().any(is_hidden).then(|| json::quoted(text));
    escaped.and_then(|escaped| escaped.parse().ok()).unwrap_or_else(|| Toml::from(text))
}

struct Reader<'a> {
    source: &'a Arc<Source>,
}

impl Reader<'_> {
    fn table(&self, table: &Table, depth: usize) -> Result<Map, ConfigError> {
        let keys = table.iter().filter_map(|(name, _)| table.get_key_value(name));
        keys.map(|(key, item)| self.entry(key, item, depth)).collect()
    }

    fn entry(&self, key: &Key, item: &Item, depth: usize) -> Result<(String, Entry), ConfigError> {
        let origin = self.origin(key.span());
        let node = self.item(item, &origin, depth)?;
        Ok((key.get().to_owned(), Entry { key: origin, node }))
    }

    /// Converts an item; `key` is the origin of a table, which has no characters of its own.
    fn item(&self, item: &Item, key: &Origin, depth: usize) -> Result<Node, ConfigError> {
        self.check_depth(depth, key)?;
        let value = match item {
            Item::None => Value::Null,
            Item::Value(value) => return self.value(value, key, depth),
            Item::Table(table) => Value::Map(self.table(table, depth + 1)?),
            Item::ArrayOfTables(tables) => {
                let item = |table: &Table| Ok(Node::new(key.clone(), Value::Map(self.table(table, depth + 2)?)));
                Value::Seq(tables.iter().map(item).collect::<Result<_, ConfigError>>()?)
            }
        };
        Ok(Node::new(key.clone(), value))
    }

    fn value(&self, value: &Toml, key: &Origin, depth: usize) -> Result<Node, ConfigError> {
        self.check_depth(depth, key)?;
        let origin = value.span().map_or_else(|| key.clone(), |span| self.origin(Some(span)));
        let written = || value.span().and_then(|span| self.source.text().get(span)).unwrap_or_default();
        let value = match value {
            // An integer beyond TOML's 64 bits.
            Toml::String(text) if scalar::int(text.value()).is_some_and(|value| i64::try_from(value).is_err()) => {
                Value::Plain(text.value().clone())
            }
            Toml::String(text) => Value::Str(text.value().clone()),
            // The spelling is kept if it means the same here; YAML has no binary numbers.
            Toml::Integer(_) if scalar::int(written()).is_some() => Value::Plain(written().to_owned()),
            Toml::Integer(number) => Value::Int((*number.value()).into()),
            Toml::Float(number) if number.value().is_finite() => Value::Plain(written().to_owned()),
            Toml::Float(number) => Value::Float(*number.value()),
            Toml::Boolean(_) | Toml::Datetime(_) => Value::Plain(written().to_owned()),
            Toml::Array(items) => {
                let item = |item| self.value(item, &origin, depth + 1);
                Value::Seq(items.iter().map(item).collect::<Result<_, _>>()?)
            }
            Toml::InlineTable(table) => {
                let keys = table.iter().filter_map(|(name, _)| table.get_key_value(name));
                let map: Map = keys.map(|(key, item)| self.entry(key, item, depth + 1)).collect::<Result<_, _>>()?;
                match map.get(NULL) {
                    Some(entry) if map.len() == 1 && entry.node.as_text() == Some("true") => Value::Null,
                    _ => Value::Map(map),
                }
            }
        };
        Ok(Node::new(origin, value))
    }

    fn check_depth(&self, depth: usize, origin: &Origin) -> Result<(), ConfigError> {
        if depth <= yaml::MAX_DEPTH {
            return Ok(());
        }
        let problem = ProblemKind::Syntax {
            reason: format!("too large: at most {} levels", yaml::MAX_DEPTH),
            help: None,
        };
        Err(ConfigError::new(Path::default(), Some(origin.clone()), problem))
    }

    fn origin(&self, span: Option<Range<usize>>) -> Origin {
        let span = span.unwrap_or(0..0);
        Origin::File {
            source: Arc::clone(self.source),
            span: Span::new(span.start, span.len()),
        }
    }

    fn error(&self, span: Option<Range<usize>>, reason: &str) -> ConfigError {
        let problem = ProblemKind::Syntax {
            reason: reason.to_owned(),
            help: None,
        };
        ConfigError::new(Path::default(), Some(self.origin(span)), problem)
    }
}
