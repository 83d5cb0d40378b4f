//! Problems of records, which are reported together.

use std::{fmt, sync::Arc};

/// One problem of one record, or of a whole file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: Arc<str>,
    /// Index of the record, from 0. `None` for a problem of the whole file.
    pub record: Option<usize>,
    /// The record's `id`, as written in the file.
    pub id: Option<String>,
    /// The invalid field.
    pub field: Option<&'static str>,
    /// Description of the problem.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if let Some(record) = self.record {
            write!(f, ": record {record}")?;
        }
        if let Some(id) = &self.id {
            write!(f, " (id {id})")?;
        }
        if let Some(field) = self.field {
            write!(f, ", {field}")?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// Number of problems printed in full; the rest are only counted.
const LISTED: usize = 20;

/// Returns the first problems, one a line, and the number of others.
pub(crate) fn first_problems(problems: &[Problem]) -> String {
    let mut lines: Vec<String> = problems.iter().take(LISTED).map(|problem| format!("\n  {problem}")).collect();
    if problems.len() > LISTED {
        lines.push(format!("\n  and {} more", problems.len() - LISTED));
    }
    lines.concat()
}
