//! Deserializes types from a tree: serde's `Deserializer` for `&Node`.
//!
//! A scalar's characters are parsed only when its type is known. Errors carry the origin of their node; each container
//! adds its segment of the path.

mod all_errors;
mod container;
mod scalar;
mod variant;

use serde::{
    Deserialize, Deserializer,
    de::{self, Expected, Unexpected, Visitor},
};

pub(super) use self::all_errors::{remove, typed};
use self::{
    container::{Arguments, Items},
    variant::Tagged,
};
use super::{
    bound_items::{BOUND, BoundItems},
    call::{TUPLE, is_tuple},
    error::{ConfigError, ProblemKind},
    names,
    node::{FACTORY, Map, Node, PARTIAL, TARGET, Value},
    path::{Path, Segment},
    scalar::{float_text, is_none},
};

/// Reads the typed value that `node` describes.
///
/// # Errors
/// The first value that does not fit its type, with its path and origin.
pub fn from_node<'de, T: Deserialize<'de>>(node: &'de Node) -> Result<T, ConfigError> {
    T::deserialize(node).map_err(|error| error.or_at(&node.origin).with_fallback(|_| Vec::new()))
}

impl<'de> Deserializer<'de> for &'de Node {
    type Error = ConfigError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        match &self.value {
            Value::Null => visitor.visit_unit(),
            Value::Plain(text) => scalar::visit_resolved(text, visitor),
            Value::Str(text) => visitor.visit_borrowed_str(text),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Int(value) => scalar::visit_int(*value, visitor),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Seq(items) => visitor.visit_seq(Items::new(items)),
            // A value of any shape keeps all keys, `_target_` too.
            Value::Map(map) => visitor.visit_map(container::Entries::whole(map)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        match &self.value {
            Value::Null => visitor.visit_none(),
            Value::Plain(text) if is_none(text) => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        match &self.value {
            Value::Null => visitor.visit_unit(),
            _ => Err(self.wrong_type("null", None)),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, ConfigError> {
        match self.get(PARTIAL) {
            Some(partial) if name == PARTIAL && !partial.boolean()? => {
                let message = "this description is called later, not built".to_owned();
                let help = Some(format!("write `{PARTIAL}: true`, or leave it out"));
                Err(partial.error(ProblemKind::Invalid { message, help }))
            }
            _ if name == BOUND => visitor.visit_seq(BoundItems::new(self)),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        visitor.visit_seq(Items::new(self.items()?))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, ConfigError> {
        let items = self.items()?;
        if items.len() != len {
            return Err(self.error(ProblemKind::Length {
                expected: len,
                found: items.len(),
            }));
        }
        visitor.visit_seq(Items::new(items))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(self, _: &'static str, len: usize, visitor: V) -> Result<V::Value, ConfigError> {
        self.deserialize_tuple(len, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        match &self.value {
            Value::Map(map) => visitor.visit_map(container::Entries::whole(map)),
            _ => Err(self.wrong_type("a map", None)),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ConfigError> {
        let unresolved = |tag: &Node, key: Option<&str>| {
            let help = (!fields.is_empty()).then(|| format!("the fields here are {}", super::error::list(fields)));
            let fallback = ProblemKind::WrongType {
                expected: "a map".to_owned(),
                found: tag.describe(),
                help,
            };
            tag.error(ProblemKind::UnresolvedName {
                type_name: name.to_owned(),
                names: Vec::new(),
                key: key.map(str::to_owned),
                fallback: Box::new(fallback),
            })
        };
        match &self.value {
            Value::Map(map) => match map.get(FACTORY).filter(|_| !fields.contains(&FACTORY)) {
                Some(factory) => Err(unresolved(&factory.node, Some(FACTORY))),
                // The type itself has a name, too: `nl.Trainer`.
                None if other_class(map, name) && !fields.contains(&TARGET) => Err(unresolved(&map[TARGET].node, Some(TARGET))),
                None => Arguments::new(map, &self.origin).deserialize_struct(name, fields, visitor),
            },
            _ => Err(unresolved(self, None)),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ConfigError> {
        visitor.visit_enum(Tagged::new(self, name, variants)?)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, ConfigError> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        visitor.visit_unit()
    }

    scalar::forward_scalars!();
}

/// Returns true if a map names another class than the struct `name`.
fn other_class(map: &Map, name: &str) -> bool {
    let text = map.get(TARGET).and_then(|entry| entry.node.as_text());
    text.is_some_and(|text| text != name && !names::names_struct(text, name))
}

impl Node {
    fn error(&self, problem: ProblemKind) -> ConfigError {
        ConfigError::new(Path::default(), Some(self.origin.clone()), problem)
    }

    fn wrong_type(&self, expected: &str, help: Option<String>) -> ConfigError {
        self.error(ProblemKind::WrongType {
            expected: expected.to_owned(),
            found: self.describe(),
            help,
        })
    }

    fn items(&self) -> Result<&[Self], ConfigError> {
        match &self.value {
            Value::Seq(items) => Ok(items),
            Value::Plain(text) if is_tuple(text) => Err(self.error(ProblemKind::UnresolvedName {
                type_name: TUPLE.to_owned(),
                names: Vec::new(),
                key: None,
                fallback: Box::new(ProblemKind::WrongType {
                    expected: "a list".to_owned(),
                    found: self.describe(),
                    help: Some("write a list in brackets".to_owned()),
                }),
            })),
            Value::Plain(text) if text.contains(',') && !text.starts_with(['[', '(']) => {
                Err(self.wrong_type("a list", Some(format!("write a list in brackets: `[{text}]`"))))
            }
            Value::Plain(text) => Err(self.wrong_type("a list", Some(format!("write a list of one item as `[{text}]`")))),
            _ => Err(self.wrong_type("a list", None)),
        }
    }
}

/// Errors of serde's visitors. The container that holds the value adds the origin. The second line of a custom message
/// is its help.
impl de::Error for ConfigError {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        let message = message.to_string();
        let (message, help) = match message.split_once('\n') {
            Some((message, help)) => (message.to_owned(), Some(help.to_owned())),
            None => (message, None),
        };
        Self::new(Path::default(), None, ProblemKind::Invalid { message, help })
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let problem = ProblemKind::WrongType {
            expected: expected.to_string(),
            found: describe(found),
            help: None,
        };
        Self::new(Path::default(), None, problem)
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_variant(name: &str, allowed: &'static [&'static str]) -> Self {
        let problem = ProblemKind::UnknownVariant {
            name: name.to_owned(),
            allowed: owned(allowed),
        };
        Self::new(Path::default(), None, problem)
    }

    fn unknown_field(name: &str, allowed: &'static [&'static str]) -> Self {
        let problem = ProblemKind::UnknownField {
            name: name.to_owned(),
            allowed: owned(allowed),
        };
        Self::new(Path::default(), None, problem)
    }

    fn missing_field(name: &'static str) -> Self {
        Self::new(Path(vec![Segment::Key(name.to_owned())]), None, ProblemKind::MissingField)
    }
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Describes the value that serde found, as [`Node::describe`] does.
fn describe(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Unit | Unexpected::Option => "null".to_owned(),
        Unexpected::Bool(value) => format!("`{value}`"),
        Unexpected::Unsigned(value) => format!("`{value}`"),
        Unexpected::Signed(value) => format!("`{value}`"),
        Unexpected::Float(value) => format!("`{}`", float_text(value)),
        Unexpected::Str(value) => format!("`{value}`"),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "a map".to_owned(),
        other => other.to_string(),
    }
}
