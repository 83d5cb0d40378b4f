//! Metadata of a GGUF file.

use std::collections::BTreeMap;

use crate::{
    error::Result,
    source::{AGAIN, Reader},
};

/// Maximum number of values in all metadata; vocabularies have some 100,000.
const MOST_VALUES: u64 = 16 << 20;
/// Maximum length of a text in bytes; chat templates have some kB.
const LONGEST_TEXT: u64 = 16 << 20;
/// Maximum depth of arrays in arrays.
const DEEPEST: u32 = 4;

/// A value of the metadata.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum MetadataValue {
    /// A flag.
    Bool(bool),
    /// An integer of any width.
    Integer(i128),
    /// A number of 32 bits.
    F32(f32),
    /// A number of 64 bits.
    F64(f64),
    /// A text.
    Text(String),
    /// Values of one type.
    Array(Vec<Self>),
}

/// Metadata of a GGUF file, by key; empty for other files.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata {
    values: BTreeMap<String, MetadataValue>,
}

impl Metadata {
    pub(super) fn read(input: &mut Reader<'_>, entries: u64) -> Result<Self> {
        let (mut values, mut left) = (BTreeMap::new(), MOST_VALUES);
        for _ in 0..entries {
            let key = text(input)?;
            let kind = u32::from_le_bytes(input.array()?);
            let value = value(input, kind, 0, &mut left)?;
            if values.insert(key.clone(), value).is_some() {
                return Err(input.source.wrong(format!("its metadata have {key:?} twice"), AGAIN));
            }
        }
        Ok(Self { values })
    }

    /// Returns a value.
    pub fn get(&self, key: &str) -> Option<&MetadataValue> {
        self.values.get(key)
    }

    /// Returns a text.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.get(key)? {
            MetadataValue::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Returns an integer.
    pub fn integer(&self, key: &str) -> Option<i64> {
        match self.get(key)? {
            MetadataValue::Integer(value) => i64::try_from(*value).ok(),
            _ => None,
        }
    }

    /// Returns a flag.
    pub fn boolean(&self, key: &str) -> Option<bool> {
        match self.get(key)? {
            MetadataValue::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// Returns a number. A number of 32 bits is the shortest decimal that it stands for: 1e-5, not 9.99999974e-6.
    pub fn number(&self, key: &str) -> Option<f64> {
        number(self.get(key)?)
    }

    /// Returns an array of texts.
    pub fn texts(&self, key: &str) -> Option<Vec<&str>> {
        fn text(value: &MetadataValue) -> Option<&str> {
            match value {
                MetadataValue::Text(text) => Some(text),
                _ => None,
            }
        }
        self.array(key)?.iter().map(text).collect()
    }

    /// Returns an array of numbers.
    pub fn numbers(&self, key: &str) -> Option<Vec<f64>> {
        self.array(key)?.iter().map(number).collect()
    }

    /// Returns an array.
    pub fn array(&self, key: &str) -> Option<&[MetadataValue]> {
        match self.get(key)? {
            MetadataValue::Array(values) => Some(values),
            _ => None,
        }
    }
}

fn number(value: &MetadataValue) -> Option<f64> {
    match value {
        MetadataValue::Integer(value) => Some(*value as f64),
        MetadataValue::F32(value) => value.to_string().parse().ok(),
        MetadataValue::F64(value) => Some(*value),
        _ => None,
    }
}

/// Reads a text after its length.
pub(super) fn text(input: &mut Reader<'_>) -> Result<String> {
    let length = u64::from_le_bytes(input.array()?);
    if length > LONGEST_TEXT {
        return Err(input
            .source
            .wrong(format!("a text in its header has {length} bytes, at {}", input.at), AGAIN));
    }
    let at = input.at;
    let bytes = input.bytes(length)?;
    String::from_utf8(bytes).map_err(|_| input.source.wrong(format!("a text in its header is not UTF-8, at {at}"), AGAIN))
}

fn value(input: &mut Reader<'_>, kind: u32, depth: u32, left: &mut u64) -> Result<MetadataValue> {
    use MetadataValue::{Array, Bool, F32, F64, Integer, Text};
    Ok(match kind {
        0 => Integer(u8::from_le_bytes(input.array()?).into()),
        1 => Integer(i8::from_le_bytes(input.array()?).into()),
        2 => Integer(u16::from_le_bytes(input.array()?).into()),
        3 => Integer(i16::from_le_bytes(input.array()?).into()),
        4 => Integer(u32::from_le_bytes(input.array()?).into()),
        5 => Integer(i32::from_le_bytes(input.array()?).into()),
        6 => F32(f32::from_le_bytes(input.array()?)),
        7 => Bool(input.array::<1>()? != [0]),
        8 => Text(text(input)?),
        9 => {
            let (kind, count) = (u32::from_le_bytes(input.array()?), u64::from_le_bytes(input.array()?));
            // Each value has a byte at least.
            if count > input.rest() || count > *left || depth >= DEEPEST {
                let at = input.at;
                return Err(input
                    .source
                    .wrong(format!("an array in its header has {count} values, at {at}"), AGAIN));
            }
            *left -= count;
            Array((0..count).map(|_| value(input, kind, depth + 1, left)).collect::<Result<_>>()?)
        }
        10 => Integer(u64::from_le_bytes(input.array()?).into()),
        11 => Integer(i64::from_le_bytes(input.array()?).into()),
        12 => F64(f64::from_le_bytes(input.array()?)),
        other => {
            return Err(input
                .source
                .wrong(format!("a value in its header has the unknown type {other}"), AGAIN));
        }
    })
}
