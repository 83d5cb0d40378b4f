//! Serializes types to a tree: serde's `Serializer`, the inverse of [`super::de`].

mod compound;

use std::fmt::Display;

use serde::{Serialize, Serializer, ser};

use self::compound::{Fields, List};
use super::{
    error::ConfigError,
    node::{ARGS, CUSTOM, Entry, Map, Node, PARTIAL, RESERVED, TARGET, Value},
    origin::Origin,
    scalar,
};

/// Returns the tree that describes `value`, every node at `origin`. A variant of an enum becomes a map with
/// `_target_` first, or only its name if it has no fields.
///
/// # Errors
/// A map key that is not a scalar, an integer beyond `i128`, or an error of the type's `Serialize`.
pub fn to_node(value: &impl Serialize, origin: Origin) -> Result<Node, ConfigError> {
    value.serialize(Writer { origin: &origin }).map_err(|error| error.or_at(&origin))
}

impl ser::Error for ConfigError {
    fn custom<T: Display>(message: T) -> Self {
        serde::de::Error::custom(message)
    }
}

#[derive(Clone, Copy)]
struct Writer<'a> {
    origin: &'a Origin,
}

impl<'a> Writer<'a> {
    fn node(self, value: Value) -> Node {
        Node::new(self.origin.clone(), value)
    }

    fn entry(self, node: Node) -> Entry {
        Entry {
            key: self.origin.clone(),
            node,
        }
    }

    fn list(self, variant: Option<&'static str>) -> List<'a> {
        List {
            writer: self,
            items: Vec::new(),
            variant,
        }
    }

    fn fields(self, variant: Option<&'static str>) -> Fields<'a> {
        let mut map = Map::new();
        if let Some(variant) = variant {
            map.insert(TARGET.to_owned(), self.entry(self.node(Value::Str(variant.to_owned()))));
        }
        Fields {
            writer: self,
            map,
            key: None,
        }
    }

    /// Returns a call that waits for arguments: a map with `_partial_` after `_target_`.
    fn partial(self, node: Node) -> Node {
        let (mut map, at) = match node.value {
            Value::Map(map) => {
                let at = usize::from(map.contains_key(TARGET));
                (map, at)
            }
            Value::Str(name) => (Map::from([(TARGET.to_owned(), self.entry(self.node(Value::Str(name))))]), 1),
            value => return self.node(value),
        };
        map.shift_insert(at, PARTIAL.to_owned(), self.entry(self.node(Value::Bool(true))));
        self.node(Value::Map(map))
    }

    /// Returns `{_target_: variant, _args_: [..]}`.
    fn with_arguments(self, variant: &'static str, items: Vec<Node>) -> Node {
        let mut fields = self.fields(Some(variant));
        fields.map.insert(ARGS.to_owned(), self.entry(self.node(Value::Seq(items))));
        self.node(Value::Map(fields.map))
    }
}

macro_rules! integers {
    ($($method:ident $type:ty,)*) => {
        $(fn $method(self, value: $type) -> Result<Node, ConfigError> {
            Ok(self.node(Value::Int(value.into())))
        })*
    };
}

impl<'a> Serializer for Writer<'a> {
    type Ok = Node;
    type Error = ConfigError;
    type SerializeSeq = List<'a>;
    type SerializeTuple = List<'a>;
    type SerializeTupleStruct = List<'a>;
    type SerializeTupleVariant = List<'a>;
    type SerializeMap = Fields<'a>;
    type SerializeStruct = Fields<'a>;
    type SerializeStructVariant = Fields<'a>;

    integers! {
        serialize_i8 i8, serialize_i16 i16, serialize_i32 i32, serialize_i64 i64, serialize_i128 i128,
        serialize_u8 u8, serialize_u16 u16, serialize_u32 u32, serialize_u64 u64,
    }

    fn serialize_u128(self, value: u128) -> Result<Node, ConfigError> {
        let value = i128::try_from(value).map_err(|_| ser::Error::custom(format!("`{value}` is too large")))?;
        Ok(self.node(Value::Int(value)))
    }

    fn serialize_bool(self, value: bool) -> Result<Node, ConfigError> {
        Ok(self.node(Value::Bool(value)))
    }

    fn serialize_f32(self, value: f32) -> Result<Node, ConfigError> {
        // Through the shortest text, so that 0.1 is written `0.1` and not `0.10000000149011612`.
        let shortest = scalar::float(&format!("{value:?}")).unwrap_or(f64::from(value));
        Ok(self.node(Value::Float(shortest)))
    }

    fn serialize_f64(self, value: f64) -> Result<Node, ConfigError> {
        Ok(self.node(Value::Float(value)))
    }

    fn serialize_char(self, value: char) -> Result<Node, ConfigError> {
        Ok(self.node(Value::Str(value.to_string())))
    }

    fn serialize_str(self, value: &str) -> Result<Node, ConfigError> {
        Ok(self.node(Value::Str(value.to_owned())))
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<Node, ConfigError> {
        Ok(self.node(Value::Seq(value.iter().map(|byte| self.node(Value::Int((*byte).into()))).collect())))
    }

    fn serialize_none(self) -> Result<Node, ConfigError> {
        Ok(self.node(Value::Null))
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Node, ConfigError> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<Node, ConfigError> {
        self.serialize_none()
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<Node, ConfigError> {
        self.serialize_none()
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<Node, ConfigError> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, name: &'static str, value: &T) -> Result<Node, ConfigError> {
        let node = value.serialize(self)?;
        Ok(if name == PARTIAL { self.partial(node) } else { node })
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<Node, ConfigError> {
        let inner = value.serialize(self)?;
        if variant == CUSTOM && inner.get(TARGET).is_some() {
            // A custom type holds its `_target_` itself.
            return Ok(inner);
        }
        match inner.value {
            // The fields are siblings of `_target_`, unless they describe another type.
            Value::Map(inner) if !RESERVED.iter().any(|key| inner.contains_key(*key)) => {
                let mut fields = self.fields(Some(variant));
                fields.map.extend(inner);
                Ok(self.node(Value::Map(fields.map)))
            }
            inner => Ok(self.with_arguments(variant, vec![self.node(inner)])),
        }
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<List<'a>, ConfigError> {
        Ok(self.list(None))
    }

    fn serialize_tuple(self, _: usize) -> Result<List<'a>, ConfigError> {
        Ok(self.list(None))
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<List<'a>, ConfigError> {
        Ok(self.list(None))
    }

    fn serialize_tuple_variant(self, _: &'static str, _: u32, variant: &'static str, _: usize) -> Result<List<'a>, ConfigError> {
        Ok(self.list(Some(variant)))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Fields<'a>, ConfigError> {
        Ok(self.fields(None))
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Fields<'a>, ConfigError> {
        Ok(self.fields(None))
    }

    fn serialize_struct_variant(self, _: &'static str, _: u32, variant: &'static str, _: usize) -> Result<Fields<'a>, ConfigError> {
        Ok(self.fields(Some(variant)))
    }
}
