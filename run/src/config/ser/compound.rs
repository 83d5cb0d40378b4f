//! Serializes lists and maps.

use serde::{Serialize, ser};

use super::Writer;
use crate::config::{
    error::ConfigError,
    node::{Map, Node, Value},
};

/// Serializer of a list, or of the unnamed arguments of a variant.
pub(super) struct List<'a> {
    pub(super) writer: Writer<'a>,
    pub(super) items: Vec<Node>,
    pub(super) variant: Option<&'static str>,
}

impl List<'_> {
    fn push<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ConfigError> {
        self.items.push(value.serialize(self.writer)?);
        Ok(())
    }

    fn finish(self) -> Result<Node, ConfigError> {
        Ok(match self.variant {
            Some(variant) => self.writer.with_arguments(variant, self.items),
            None => self.writer.node(Value::Seq(self.items)),
        })
    }
}

macro_rules! lists {
    ($($name:ident $method:ident,)*) => {
        $(impl ser::$name for List<'_> {
            type Ok = Node;
            type Error = ConfigError;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ConfigError> {
                self.push(value)
            }

            fn end(self) -> Result<Node, ConfigError> {
                self.finish()
            }
        })*
    };
}
lists! {
    SerializeSeq serialize_element,
    SerializeTuple serialize_element,
    SerializeTupleStruct serialize_field,
    SerializeTupleVariant serialize_field,
}

/// Serializer of a map, a struct or the named arguments of a variant.
pub(super) struct Fields<'a> {
    pub(super) writer: Writer<'a>,
    pub(super) map: Map,
    pub(super) key: Option<String>,
}

impl Fields<'_> {
    fn insert<T: Serialize + ?Sized>(&mut self, name: String, value: &T) -> Result<(), ConfigError> {
        let entry = self.writer.entry(value.serialize(self.writer)?);
        self.map.insert(name, entry);
        Ok(())
    }
}

impl ser::SerializeMap for Fields<'_> {
    type Ok = Node;
    type Error = ConfigError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), ConfigError> {
        self.key = Some(match key.serialize(self.writer)?.value {
            Value::Str(text) => text,
            Value::Bool(value) => value.to_string(),
            Value::Int(value) => value.to_string(),
            _ => return Err(ser::Error::custom("the keys of a map must be text or integers")),
        });
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ConfigError> {
        match self.key.take() {
            Some(key) => self.insert(key, value),
            None => Err(ser::Error::custom("a value was given before its key")),
        }
    }

    fn end(self) -> Result<Node, ConfigError> {
        Ok(self.writer.node(Value::Map(self.map)))
    }
}

macro_rules! structs {
    ($($name:ident)*) => {
        $(impl ser::$name for Fields<'_> {
            type Ok = Node;
            type Error = ConfigError;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), ConfigError> {
                self.insert(name.to_owned(), value)
            }

            fn end(self) -> Result<Node, ConfigError> {
                Ok(self.writer.node(Value::Map(self.map)))
            }
        })*
    };
}
structs! { SerializeStruct SerializeStructVariant }
