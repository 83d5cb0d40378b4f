//! Hidden states of the vision encoder that the projector reads.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::borrow::Cow;
use std::fmt;

/// One hidden state of the vision encoder, or several that are concatenated along their width: 0 is the embedding's output,
/// a negative number counts from the end. Written as a number or as a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureLayers(Vec<i64>);

impl FeatureLayers {
    /// Returns the numbers, in the order of concatenation.
    pub fn numbers(&self) -> &[i64] {
        &self.0
    }

    /// Returns the index of each hidden state of an encoder with `layers` layers; numbers out of range are clamped.
    pub fn indices(&self, layers: i64) -> Vec<usize> {
        let index = |number: &i64| match number {
            ..0 => (layers + 1).saturating_add(*number),
            _ => *number,
        };
        self.0.iter().map(|number| index(number).clamp(0, layers) as usize).collect()
    }

    /// Returns the numbers that are out of range for an encoder with `layers` layers.
    pub fn outside(&self, layers: i64) -> impl Iterator<Item = i64> {
        self.0
            .iter()
            .copied()
            .filter(move |number| *number > layers || *number < -(layers + 1))
    }
}

impl From<i64> for FeatureLayers {
    fn from(number: i64) -> Self {
        Self(vec![number])
    }
}

impl From<Vec<i64>> for FeatureLayers {
    fn from(numbers: Vec<i64>) -> Self {
        Self(numbers)
    }
}

impl fmt::Display for FeatureLayers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0[..] {
            [number] => write!(f, "{number}"),
            numbers => write!(f, "{numbers:?}"),
        }
    }
}

impl Serialize for FeatureLayers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0[..] {
            [number] => number.serialize(serializer),
            numbers => numbers.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for FeatureLayers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Numbers;
        impl<'de> de::Visitor<'de> for Numbers {
            type Value = FeatureLayers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number or a list of numbers")
            }

            fn visit_i64<E>(self, number: i64) -> Result<FeatureLayers, E> {
                Ok(number.into())
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<FeatureLayers, E> {
                let number = i64::try_from(number).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(number), &self))?;
                Ok(number.into())
            }

            fn visit_i128<E: de::Error>(self, number: i128) -> Result<FeatureLayers, E> {
                let number = i64::try_from(number).map_err(|_| E::custom(format!("`{number}` is not the number of a layer")))?;
                Ok(number.into())
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<FeatureLayers, A::Error> {
                let mut numbers = Vec::new();
                while let Some(number) = list.next_element::<i64>()? {
                    numbers.push(number);
                }
                Ok(FeatureLayers(numbers))
            }
        }
        deserializer.deserialize_any(Numbers)
    }
}

// Written out and inlined: a union would be taken for a choice of types, which calls may replace.
impl JsonSchema for FeatureLayers {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "FeatureLayers".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["integer", "array"], "items": { "type": "integer", "format": "int64" } })
    }
}
