//! Reads the YAML and JSON files of Energon's metadata. A tag or a Python object in them is not interpreted.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::DataError;

/// Maximum size of a file of metadata, in bytes.
const MAX_SIZE: u64 = 256 << 20;

/// Returns the error of a file of metadata.
pub(super) fn invalid(path: &Path, field: &str, reason: impl Into<String>) -> DataError {
    DataError::Energon {
        path: path.to_owned(),
        field: field.to_owned(),
        reason: reason.into(),
    }
}

/// Reads a file of YAML or JSON.
///
/// # Errors
/// The file cannot be read, or is neither.
pub(super) fn read(path: &Path) -> Result<Value, DataError> {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => invalid(path, "", "does not exist"),
        _ => DataError::Read {
            path: path.to_owned(),
            error,
        },
    };
    let size = path.metadata().map_err(failed)?.len();
    if size > MAX_SIZE {
        return Err(invalid(
            path,
            "",
            format!("has {size} bytes, more than {MAX_SIZE}: it is no file of metadata"),
        ));
    }
    let bytes = std::fs::read(path).map_err(failed)?;
    let text = String::from_utf8(bytes).map_err(|_| invalid(path, "", "is not UTF-8 text"))?;
    if path.extension().is_some_and(|extension| extension == "json") {
        return serde_json::from_str(&text).map_err(|error| invalid(path, "", format!("is not JSON: {error}")));
    }
    serde_saphyr::from_str(&text).map_err(|error| {
        let message = error.to_string();
        invalid(path, "", format!("is not YAML: {}", message.lines().next().unwrap_or_default()))
    })
}

/// A section of a file, for messages.
#[derive(Clone, Copy)]
pub(super) struct Section<'a> {
    pub(super) path: &'a Path,
    /// Dotted name of the section; empty for the whole file.
    pub(super) name: &'a str,
    pub(super) fields: &'a Map<String, Value>,
}

impl<'a> Section<'a> {
    /// Returns the section that `value` is.
    pub(super) fn new(path: &'a Path, name: &'a str, value: &'a Value) -> Result<Self, DataError> {
        match value {
            Value::Object(fields) => Ok(Self { path, name, fields }),
            other => Err(invalid(path, name, format!("must be a mapping, found {}", kind(other)))),
        }
    }

    /// Returns the dotted name of a field.
    pub(super) fn field(&self, name: &str) -> String {
        match self.name {
            "" => name.to_owned(),
            section => format!("{section}.{name}"),
        }
    }

    /// Returns the error of a field.
    pub(super) fn invalid(&self, name: &str, reason: impl Into<String>) -> DataError {
        invalid(self.path, &self.field(name), reason)
    }

    /// Returns a field that is neither missing nor null.
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    /// Returns the text of a field.
    pub(super) fn text(&self, name: &str) -> Result<Option<&'a str>, DataError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.invalid(name, format!("must be text, found {}", kind(other)))),
        }
    }

    /// Returns a number that is 0 or more.
    pub(super) fn number(&self, name: &str) -> Result<Option<f64>, DataError> {
        match self.get(name) {
            None => Ok(None),
            Some(value) => match value.as_f64().filter(|number| number.is_finite() && *number >= 0.0) {
                Some(number) => Ok(Some(number)),
                None => Err(self.invalid(name, format!("is {value}, it must be a number of at least 0"))),
            },
        }
    }

    /// Rejects fields other than `known`.
    pub(super) fn only(&self, known: &[&str]) -> Result<(), DataError> {
        match self.fields.keys().find(|name| !known.contains(&name.as_str())) {
            None => Ok(()),
            Some(name) => Err(self.invalid(name, format!("is not known here: the fields are {}", known.join(", ")))),
        }
    }
}

/// Returns the name of a value's type.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}
