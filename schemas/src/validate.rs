//! Validation: reports all problems of a value at once, each with its dotted path.

use serde::Serialize;
use std::fmt;
use std::path::Path;

/// Severity of a [`Problem`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The run cannot start.
    Error,
    /// The run starts, but a setting has no effect or an unexpected one.
    Warning,
}

/// A problem of a typed value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Severity.
    pub severity: Severity,
    /// Dotted path from the top of the recipe, for example `finetune.data.global_batch_size`.
    pub path: String,
    /// Description of the problem, with the values.
    pub message: String,
    /// Suggested fix, if there is one.
    pub help: Option<String>,
    /// True if the value is a secret and must not be quoted.
    #[serde(skip)]
    pub secret: bool,
}

impl Problem {
    /// Creates a problem that prevents the run.
    pub fn error(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            path: path.into(),
            message: message.into(),
            help: None,
            secret: false,
        }
    }

    /// Creates a problem that is only reported.
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

/// A value that can be validated.
pub trait Validate {
    /// Appends all problems; `path` is the dotted path of `self`.
    fn validate(&self, path: &str, problems: &mut Vec<Problem>);

    /// Returns all problems of `self`.
    fn problems(&self, path: &str) -> Vec<Problem> {
        let mut problems = Vec::new();
        self.validate(path, &mut problems);
        problems
    }
}

/// Returns the path of a field of `path`, which is empty at the top.
pub(crate) fn field(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// Appends an error for each named value that is zero.
pub(crate) fn nonzero(path: &str, problems: &mut Vec<Problem>, fields: &[(&str, u64)]) {
    for (name, value) in fields {
        if *value == 0 {
            problems.push(Problem::error(field(path, name), format!("`{name}` is 0, it must be at least 1")));
        }
    }
}

/// Appends an error if a folder to write to is empty, which would be the working folder itself.
pub(crate) fn named_folder(path: &str, problems: &mut Vec<Problem>, name: &str, folder: Option<&Path>) {
    if folder.is_some_and(|folder| folder.as_os_str().is_empty()) {
        let help = "name a folder, `.` for the working folder, or null for the default";
        problems.push(Problem::error(field(path, name), format!("`{name}` is empty")).help(help));
    }
}

/// Appends an error unless `value` is a finite number of at least 0.
pub(crate) fn at_least_0(path: &str, problems: &mut Vec<Problem>, name: &str, value: f64) {
    if !(value.is_finite() && value >= 0.0) {
        problems.push(Problem::error(
            format!("{path}.{name}"),
            format!("`{name}` is {value:?}, it must be at least 0 and finite"),
        ));
    }
}
