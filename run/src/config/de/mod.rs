//! Types from a tree: serde's `Deserializer` over `&Node`.
//!
//! The type says what it wants, and only then a scalar's characters are read. Errors carry the origin
//! of the node they arose at; the path is put together on the way up.

mod container;
mod scalar;
mod survey;
mod variant;

use serde::{
    Deserialize, Deserializer,
    de::{self, Expected, Unexpected, Visitor},
};

pub(super) use self::survey::{remove, typed};
use self::{
    container::{Arguments, Items},
    variant::Tagged,
};
use super::{
    error::{ConfigError, Problem},
    node::{FACTORY, Node, PARTIAL, Value},
    path::{Path, Segment},
    scalar::{float_text, is_none},
};

/// The typed value that `node` describes.
///
/// # Errors
/// The first value that does not fit its type, with its path and origin.
pub fn from_node<'de, T: Deserialize<'de>>(node: &'de Node) -> Result<T, ConfigError> {
    T::deserialize(node).map_err(|error| error.or_at(&node.origin).settled(|_| Vec::new()))
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
            // A value of any shape is taken whole, `_target_` too.
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
            Some(partial) if name == PARTIAL && !partial.truth()? => {
                let message = "what is described here is called later, not built".to_owned();
                let help = Some(format!("write `{PARTIAL}: true`, or leave it out"));
                Err(partial.error(Problem::Invalid { message, help }))
            }
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        visitor.visit_seq(Items::new(self.items()?))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, ConfigError> {
        let items = self.items()?;
        if items.len() != len {
            return Err(self.error(Problem::Length {
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
        let not_built = |tag: &Node, key: Option<&str>| {
            let help = (!fields.is_empty()).then(|| format!("the fields here are {}", super::error::list(fields)));
            let otherwise = Problem::WrongType {
                expected: "a map".to_owned(),
                found: tag.describe(),
                help,
            };
            tag.error(Problem::NotBuilt {
                type_name: name.to_owned(),
                names: Vec::new(),
                key: key.map(str::to_owned),
                otherwise: Box::new(otherwise),
            })
        };
        match &self.value {
            Value::Map(map) => match map.get(FACTORY).filter(|_| !fields.contains(&FACTORY)) {
                Some(factory) => Err(not_built(&factory.node, Some(FACTORY))),
                None => Arguments::new(map, &self.origin).deserialize_struct(name, fields, visitor),
            },
            _ => Err(not_built(self, None)),
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

impl Node {
    fn error(&self, problem: Problem) -> ConfigError {
        ConfigError::new(Path::default(), Some(self.origin.clone()), problem)
    }

    fn wrong_type(&self, expected: &str, help: Option<String>) -> ConfigError {
        self.error(Problem::WrongType {
            expected: expected.to_owned(),
            found: self.describe(),
            help,
        })
    }

    fn items(&self) -> Result<&[Self], ConfigError> {
        match &self.value {
            Value::Seq(items) => Ok(items),
            Value::Plain(text) => Err(self.wrong_type("a list", Some(format!("a list of one is written `[{text}]`")))),
            _ => Err(self.wrong_type("a list", None)),
        }
    }
}

/// What serde's own visitors report. The origin is added by the container that holds the value. Of a message
/// that a type reports, the second line is its help.
impl de::Error for ConfigError {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        let message = message.to_string();
        let (message, help) = match message.split_once('\n') {
            Some((message, help)) => (message.to_owned(), Some(help.to_owned())),
            None => (message, None),
        };
        Self::new(Path::default(), None, Problem::Invalid { message, help })
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let problem = Problem::WrongType {
            expected: expected.to_string(),
            found: words(found),
            help: None,
        };
        Self::new(Path::default(), None, problem)
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_variant(name: &str, allowed: &'static [&'static str]) -> Self {
        let problem = Problem::UnknownVariant {
            name: name.to_owned(),
            allowed: owned(allowed),
        };
        Self::new(Path::default(), None, problem)
    }

    fn unknown_field(name: &str, allowed: &'static [&'static str]) -> Self {
        let problem = Problem::UnknownField {
            name: name.to_owned(),
            allowed: owned(allowed),
        };
        Self::new(Path::default(), None, problem)
    }

    fn missing_field(name: &'static str) -> Self {
        Self::new(Path(vec![Segment::Key(name.to_owned())]), None, Problem::MissingField)
    }
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// What serde found, in the words that [`Node`]s are described with.
fn words(found: Unexpected<'_>) -> String {
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
