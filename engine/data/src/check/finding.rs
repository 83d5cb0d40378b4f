//! A problem at its place.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::kind::Kind;

/// A problem of a record, of a file, or of the whole data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Kind of the problem.
    pub kind: Kind,
    /// The file, as the recipe names it. `None`: a problem of the whole data.
    pub file: Option<String>,
    /// Index of the record in its file, from 0. `None`: a problem of the whole file.
    pub record: Option<usize>,
    /// The record's `id`.
    pub id: Option<String>,
    /// The field.
    pub field: Option<String>,
    /// Description of the problem.
    pub reason: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(file) = &self.file else {
            return f.write_str(&self.reason);
        };
        f.write_str(file)?;
        if let Some(record) = self.record {
            write!(f, ": record {record}")?;
        }
        if let Some(id) = &self.id {
            write!(f, " (id {id})")?;
        }
        if let Some(field) = &self.field {
            write!(f, ", {field}")?;
        }
        write!(f, ": {}", self.reason)
    }
}
