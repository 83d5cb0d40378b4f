//! Value of an option of sbatch.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::{borrow::Cow, fmt};

/// Value of an option of sbatch: `true` gives the option without a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum SlurmParameter {
    /// With or without the option.
    Flag(bool),
    /// A value, as text.
    Text(String),
}

impl JsonSchema for SlurmParameter {
    fn schema_name() -> Cow<'static, str> {
        "SlurmParameter".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Value of an option of sbatch; `true` gives the option without a value.",
            "type": ["boolean", "string", "number"],
        })
    }
}

/// Deserializes without buffering, so that errors keep their positions.
impl<'de> Deserialize<'de> for SlurmParameter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Scalar;
        impl Visitor<'_> for Scalar {
            type Value = SlurmParameter;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a number, or `true`")
            }

            fn visit_bool<E: de::Error>(self, flag: bool) -> Result<SlurmParameter, E> {
                Ok(SlurmParameter::Flag(flag))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<SlurmParameter, E> {
                Ok(SlurmParameter::Text(text.to_owned()))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<SlurmParameter, E> {
                Ok(SlurmParameter::Text(number.to_string()))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<SlurmParameter, E> {
                Ok(SlurmParameter::Text(number.to_string()))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<SlurmParameter, E> {
                Ok(SlurmParameter::Text(number.to_string()))
            }
        }
        deserializer.deserialize_any(Scalar)
    }
}
