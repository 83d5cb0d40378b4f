//! Validation: every problem of a value at once, each with the dotted path it belongs to.

use serde::Serialize;
use std::fmt;

/// How bad a [`Problem`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The run cannot start.
    Error,
    /// The run starts, but something does not do what its author may think.
    Warning,
}

/// One thing that is wrong with a typed value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Whether the run may start all the same.
    pub severity: Severity,
    /// Dotted path from the top of the recipe, for example `finetune.data.global_batch_size`.
    pub path: String,
    /// What is wrong, with the numbers.
    pub message: String,
    /// What to type instead, where that can be said.
    pub help: Option<String>,
    /// The value is a secret: nobody may quote what was written.
    #[serde(skip)]
    pub secret: bool,
}

impl Problem {
    /// A problem that stops the run.
    pub fn error(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            path: path.into(),
            message: message.into(),
            help: None,
            secret: false,
        }
    }

    /// A problem that is only reported.
    pub fn warning(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(path, message)
        }
    }

    /// Adds what to type instead.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Marks the value as a secret.
    #[must_use]
    pub fn secret(mut self) -> Self {
        self.secret = true;
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)?;
        match &self.help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}

/// A value that can say everything that is wrong with it.
pub trait Validate {
    /// Appends all problems; `path` is the dotted path of `self`.
    fn validate(&self, path: &str, problems: &mut Vec<Problem>);

    /// All problems of `self` as a list.
    fn problems(&self, path: &str) -> Vec<Problem> {
        let mut problems = Vec::new();
        self.validate(path, &mut problems);
        problems
    }
}

/// Appends an error for each named value that is zero.
pub(crate) fn nonzero(path: &str, problems: &mut Vec<Problem>, fields: &[(&str, u64)]) {
    for (name, value) in fields {
        if *value == 0 {
            let path = if path.is_empty() {
                (*name).to_owned()
            } else {
                format!("{path}.{name}")
            };
            problems.push(Problem::error(path, format!("`{name}` is 0, it must be at least 1")));
        }
    }
}
