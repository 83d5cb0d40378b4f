//! A sample with the fields of its type.

use serde_json::{Map, Number, Value as Json};

use super::{raw_sample::RawSample, sample_type::SampleType};
use crate::error::DataError;

/// Value of a field.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing.
    Null,
    /// True or false.
    Bool(bool),
    /// A number.
    Number(Number),
    /// A text.
    Text(String),
    /// The part of this name, which is an image.
    Image(String),
    /// A list.
    List(Vec<Self>),
    /// A JSON object.
    Object(Map<String, Json>),
}

impl From<Json> for Value {
    fn from(value: Json) -> Self {
        match value {
            Json::Null => Self::Null,
            Json::Bool(value) => Self::Bool(value),
            Json::Number(number) => Self::Number(number),
            Json::String(text) => Self::Text(text),
            Json::Array(items) => Self::List(items.into_iter().map(Self::from).collect()),
            Json::Object(fields) => Self::Object(fields),
        }
    }
}

impl Value {
    /// Returns the name of the value's type.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "true or false",
            Self::Number(_) => "a number",
            Self::Text(_) => "text",
            Self::Image(_) => "an image",
            Self::List(_) => "a list",
            Self::Object(_) => "a JSON object",
        }
    }
}

/// A sample of a type: the values of its fields, in the type's order. A field that is missing is null.
pub struct EnergonSample {
    /// Its type.
    pub sample_type: SampleType,
    /// Names and values.
    pub fields: Vec<(&'static str, Value)>,
    /// The parts that the values are taken from.
    pub raw: RawSample,
}

impl EnergonSample {
    /// Returns the value of a field, or null.
    #[must_use]
    pub fn get(&self, name: &str) -> &Value {
        let found = self.fields.iter().find(|(field, _)| *field == name);
        found.map_or(&Value::Null, |(_, value)| value)
    }

    /// Returns the error of a field; `field` is empty for the whole sample.
    pub fn invalid(&self, field: &str, reason: impl Into<String>) -> DataError {
        self.raw.invalid(field, reason)
    }

    /// Returns a text.
    ///
    /// # Errors
    /// The field is no text.
    pub fn text(&self, field: &str) -> Result<&str, DataError> {
        match self.get(field) {
            Value::Text(text) => Ok(text),
            other => Err(self.invalid(field, format!("must be text, found {}", other.kind()))),
        }
    }

    /// Returns a text or a list of texts. `None`: there is nothing.
    pub(super) fn texts(&self, field: &str) -> Result<Option<Texts<'_>>, DataError> {
        match self.get(field) {
            Value::Null => Ok(None),
            Value::Text(text) => Ok(Some(Texts::One(text))),
            Value::List(items) => {
                let text = |(index, item): (usize, &'_ Value)| match item {
                    Value::Text(_) => Ok(()),
                    other => Err(self.invalid(&format!("{field}[{index}]"), format!("must be text, found {}", other.kind()))),
                };
                items.iter().enumerate().try_for_each(text)?;
                let texts = items.iter().filter_map(|item| match item {
                    Value::Text(text) => Some(text.as_str()),
                    _ => None,
                });
                Ok(Some(Texts::Many(texts.collect())))
            }
            other => Err(self.invalid(field, format!("must be text or a list of texts, found {}", other.kind()))),
        }
    }

    /// Returns the names of the parts of an image or a list of images.
    ///
    /// # Errors
    /// The field is something else.
    pub fn images(&self, field: &str) -> Result<Vec<&str>, DataError> {
        let one = |value: &'_ Value| match value {
            Value::Image(_) => Ok(()),
            other => Err(self.invalid(
                field,
                format!(
                    "must be an image, found {}: name its part, as `jpg` or parts(json[images])",
                    other.kind()
                ),
            )),
        };
        let list: &[Value] = match self.get(field) {
            Value::Null => &[],
            Value::List(items) => items,
            value => std::slice::from_ref(value),
        };
        list.iter().try_for_each(one)?;
        let names = list.iter().filter_map(|value| match value {
            Value::Image(part) => Some(part.as_str()),
            _ => None,
        });
        Ok(names.collect())
    }

    /// Returns a list of numbers. `None`: there is nothing.
    pub(super) fn numbers(&self, field: &str) -> Result<Option<Vec<f64>>, DataError> {
        match self.get(field) {
            Value::Null => Ok(None),
            Value::List(items) => {
                let number = |item: &Value| match item {
                    Value::Number(number) => number.as_f64().filter(|number| number.is_finite()),
                    _ => None,
                };
                let numbers: Option<Vec<f64>> = items.iter().map(number).collect();
                match numbers {
                    Some(numbers) => Ok(Some(numbers)),
                    None => Err(self.invalid(field, "must be a list of numbers")),
                }
            }
            other => Err(self.invalid(field, format!("must be a list of numbers, found {}", other.kind()))),
        }
    }
}

/// A text or several ones.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Texts<'a> {
    One(&'a str),
    Many(Vec<&'a str>),
}
