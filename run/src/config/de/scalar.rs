//! Deserializes scalars as the requested type.

use serde::de::Visitor;

use crate::config::{
    error::{ConfigError, ProblemKind},
    node::{Node, Value, resolve},
    scalar::{self, bool_like, float_text},
};

/// The scalar methods of `Deserializer`.
macro_rules! forward_scalars {
    () => {
        scalar::forward_scalars! {
            deserialize_i8 i8 => visit_i8,
            deserialize_i16 i16 => visit_i16,
            deserialize_i32 i32 => visit_i32,
            deserialize_i64 i64 => visit_i64,
            deserialize_i128 i128 => visit_i128,
            deserialize_u8 u8 => visit_u8,
            deserialize_u16 u16 => visit_u16,
            deserialize_u32 u32 => visit_u32,
            deserialize_u64 u64 => visit_u64,
            deserialize_u128 u128 => visit_u128,
        }
    };
    ($($integer:ident $type:ty => $visit:ident,)+) => {
        $(fn $integer<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
            let value = self.integer()?;
            match <$type>::try_from(value) {
                Ok(value) => visitor.$visit(value),
                Err(_) => Err(self.out_of_range(<$type>::MIN, <$type>::MAX)),
            }
        })+

        fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
            visitor.visit_bool(self.boolean()?)
        }

        fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
            let wide = self.float()?;
            let value = wide as f32;
            if wide.is_finite() && !value.is_finite() {
                return Err(self.out_of_range(f32::MIN, f32::MAX));
            }
            visitor.visit_f32(value)
        }

        fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
            visitor.visit_f64(self.float()?)
        }

        fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
            self.deserialize_str(visitor)
        }

        fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
            match self.as_text() {
                Some(text) => visitor.visit_borrowed_str(text),
                None => visitor.visit_string(self.computed_text()?),
            }
        }

        fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
            self.deserialize_str(visitor)
        }

        fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
            self.deserialize_seq(visitor)
        }

        fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
            self.deserialize_seq(visitor)
        }
    };
}
pub(super) use forward_scalars;

/// Visits the resolved value of a plain scalar, for types that accept any value.
pub(super) fn visit_resolved<'de, V: Visitor<'de>>(text: &'de str, visitor: V) -> Result<V::Value, ConfigError> {
    match resolve(text) {
        Value::Bool(value) => visitor.visit_bool(value),
        Value::Int(value) => visit_int(value, visitor),
        Value::Float(value) => visitor.visit_f64(value),
        Value::Null => visitor.visit_unit(),
        _ => visitor.visit_borrowed_str(text),
    }
}

/// Visits an integer as the smallest type that holds it; many visitors support only 64 bits.
pub(super) fn visit_int<'de, V: Visitor<'de>>(value: i128, visitor: V) -> Result<V::Value, ConfigError> {
    match (u64::try_from(value), i64::try_from(value)) {
        (Ok(value), _) => visitor.visit_u64(value),
        (_, Ok(value)) => visitor.visit_i64(value),
        _ => visitor.visit_i128(value),
    }
}

impl Node {
    pub(super) fn boolean(&self) -> Result<bool, ConfigError> {
        let (value, suggestion) = match &self.value {
            Value::Bool(value) => return Ok(*value),
            Value::Plain(text) => (scalar::flag(text), bool_like(text)),
            Value::Str(text) => (None, bool_like(text)),
            _ => (None, None),
        };
        value.ok_or_else(|| {
            self.wrong_type(
                "`true` or `false`",
                suggestion.map(|value| format!("write `{value}`, without quotes")),
            )
        })
    }

    pub(super) fn integer(&self) -> Result<i128, ConfigError> {
        let value = match &self.value {
            Value::Int(value) => return Ok(*value),
            Value::Plain(text) => scalar::int(text),
            _ => None,
        };
        value.ok_or_else(|| self.wrong_type("an integer", self.integer_help()))
    }

    pub(super) fn float(&self) -> Result<f64, ConfigError> {
        let value = match &self.value {
            Value::Float(value) => return Ok(*value),
            Value::Int(value) => return Ok(*value as f64),
            Value::Plain(text) => scalar::float(text),
            _ => None,
        };
        value.ok_or_else(|| self.wrong_type("a number", self.quotes_help(|text| scalar::float(text).is_some())))
    }

    /// Returns the text of a computed value, for a text field.
    pub(super) fn computed_text(&self) -> Result<String, ConfigError> {
        match &self.value {
            Value::Bool(value) => Ok(value.to_string()),
            Value::Int(value) => Ok(value.to_string()),
            Value::Float(value) => Ok(float_text(*value)),
            Value::Null => {
                let help = "write an empty text as `\"\"`, and the word itself as `\"null\"`".to_owned();
                Err(self.wrong_type("text", Some(help)))
            }
            _ => Err(self.wrong_type("text", None)),
        }
    }

    pub(super) fn out_of_range(&self, min: impl ToString, max: impl ToString) -> ConfigError {
        let (min, max) = (min.to_string(), max.to_string());
        self.error(ProblemKind::OutOfRange {
            found: self.describe(),
            min,
            max,
        })
    }

    /// Suggests an integer for a whole number that is written as a float, such as `1e3` and `3.0`.
    fn integer_help(&self) -> Option<String> {
        let float = match &self.value {
            Value::Plain(text) => scalar::float(text),
            Value::Float(value) => Some(*value),
            _ => None,
        };
        match float {
            // Larger floats may not be exact integers, so none is suggested.
            Some(value) if value.fract() == 0.0 && value.abs() < 9e15 => Some(format!("write `{value}`")),
            _ => self.quotes_help(|text| scalar::int(text).is_some()),
        }
    }

    fn quotes_help(&self, fits: impl Fn(&str) -> bool) -> Option<String> {
        match &self.value {
            Value::Str(text) if fits(text) => Some(format!("quotes make it text: write `{text}` without them")),
            _ => None,
        }
    }
}
