//! Deserializes maps and lists. They add their key or index to errors, and an origin if there is none.

use serde::{
    Deserializer,
    de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor},
    forward_to_deserialize_any,
};

use super::owned;
use crate::config::{
    error::{ConfigError, ProblemKind},
    node::{Entry, Map, Node, RESERVED, Value},
    origin::Origin,
    path::{Path, Segment},
};

/// The items of a list.
pub(super) struct Items<'de> {
    items: std::iter::Enumerate<std::slice::Iter<'de, Node>>,
}

impl<'de> Items<'de> {
    pub(super) fn new(items: &'de [Node]) -> Self {
        Self {
            items: items.iter().enumerate(),
        }
    }
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = ConfigError;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, ConfigError> {
        let Some((index, item)) = self.items.next() else { return Ok(None) };
        seed.deserialize(item)
            .map(Some)
            .map_err(|error| error.within(Segment::Index(index), &item.origin))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

/// A map without its reserved keys: the fields of a struct, or the arguments of a `_target_`.
#[derive(Clone, Copy)]
pub(super) struct Arguments<'de> {
    map: Option<&'de Map>,
    origin: &'de Origin,
}

impl<'de> Arguments<'de> {
    pub(super) fn new(map: &'de Map, origin: &'de Origin) -> Self {
        Self { map: Some(map), origin }
    }

    /// Creates empty arguments, for a type named by a bare string.
    pub(super) fn none(origin: &'de Origin) -> Self {
        Self { map: None, origin }
    }

    /// Checks that there are no arguments.
    pub(super) fn finish(self) -> Result<(), ConfigError> {
        self.deserialize_struct("", &[], de::IgnoredAny).map(drop)
    }

    fn entries(self, fields: Option<&'static [&'static str]>) -> Entries<'de> {
        Entries {
            entries: self.map.map(indexmap::IndexMap::iter),
            current: None,
            reserved: false,
            fields,
        }
    }
}

impl<'de> Deserializer<'de> for Arguments<'de> {
    type Error = ConfigError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        visitor.visit_map(self.entries(None)).map_err(|error| error.or_at(self.origin))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ConfigError> {
        visitor
            .visit_map(self.entries(Some(fields)))
            .map_err(|error| error.or_at(self.origin))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, ConfigError> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// The entries of a map.
pub(super) struct Entries<'de> {
    entries: Option<indexmap::map::Iter<'de, String, Entry>>,
    current: Option<(&'de str, &'de Entry)>,
    /// True if reserved keys count as entries.
    reserved: bool,
    /// The keys that a struct knows. Checked here, so that a type without `deny_unknown_fields` does not ignore a
    /// misspelt key.
    fields: Option<&'static [&'static str]>,
}

impl<'de> Entries<'de> {
    /// Returns all entries, reserved keys too.
    pub(super) fn whole(map: &'de Map) -> Self {
        Self {
            entries: Some(map.iter()),
            current: None,
            reserved: true,
            fields: None,
        }
    }

    /// Returns whether the value has this key. A struct may declare a reserved key as a field.
    fn takes(&self, name: &str) -> bool {
        self.reserved || !RESERVED.contains(&name) || self.knows(name)
    }

    fn knows(&self, name: &str) -> bool {
        self.fields.is_some_and(|fields| fields.contains(&name))
    }
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = ConfigError;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, ConfigError> {
        let (name, entry) = loop {
            let Some((name, entry)) = self.entries.as_mut().and_then(Iterator::next) else {
                return Ok(None);
            };
            if self.takes(name) {
                break (name.as_str(), entry);
            }
        };
        let segment = || Segment::Key(name.to_owned());
        if let Some(fields) = self.fields.filter(|_| !self.knows(name)) {
            let problem = ProblemKind::UnknownField {
                name: name.to_owned(),
                allowed: owned(fields),
            };
            return Err(ConfigError::new(Path(vec![segment()]), Some(entry.key.clone()), problem));
        }
        self.current = Some((name, entry));
        seed.deserialize(Key { name, origin: &entry.key })
            .map(Some)
            .map_err(|error| error.within(segment(), &entry.key))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, ConfigError> {
        let Some((name, entry)) = self.current.take() else {
            return Err(de::Error::custom("a value was requested before its key"));
        };
        seed.deserialize(&entry.node)
            .map_err(|error| error.within(Segment::Key(name.to_owned()), &entry.node.origin))
    }
}

/// A key of a map: text, or a number if the type of the keys is one.
struct Key<'de> {
    name: &'de str,
    origin: &'de Origin,
}

impl Key<'_> {
    /// Returns the key as a plain scalar, for types that parse its characters.
    fn node(&self) -> Node {
        Node::new(self.origin.clone(), Value::Plain(self.name.to_owned()))
    }
}

macro_rules! key_numbers {
    ($($method:ident $type:ty => $visit:ident,)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
            let value = <$type as de::Deserialize>::deserialize(&self.node())?;
            visitor.$visit(value)
        })*
    };
}

impl<'de> Deserializer<'de> for Key<'de> {
    type Error = ConfigError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        visitor.visit_borrowed_str(self.name)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, ConfigError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(self, _: &'static str, _: &'static [&'static str], visitor: V) -> Result<V::Value, ConfigError> {
        visitor.visit_enum(de::value::BorrowedStrDeserializer::new(self.name))
    }

    key_numbers! {
        deserialize_bool bool => visit_bool,
        deserialize_i8 i8 => visit_i8, deserialize_i16 i16 => visit_i16,
        deserialize_i32 i32 => visit_i32, deserialize_i64 i64 => visit_i64,
        deserialize_u8 u8 => visit_u8, deserialize_u16 u16 => visit_u16,
        deserialize_u32 u32 => visit_u32, deserialize_u64 u64 => visit_u64,
    }

    forward_to_deserialize_any! {
        i128 u128 f32 f64 char str string bytes byte_buf option unit unit_struct seq tuple tuple_struct
        map struct identifier ignored_any
    }
}
