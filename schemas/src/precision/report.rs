//! Problems of the fields of the mixed precision plugin.

use crate::validate::Problem;

/// Collects problems below one path.
pub(super) struct Report<'a> {
    pub(super) path: &'a str,
    pub(super) problems: &'a mut Vec<Problem>,
}

impl Report<'_> {
    /// Adds an error of a field.
    pub(super) fn error(&mut self, field: &str, message: impl Into<String>, help: impl Into<String>) {
        self.problems
            .push(Problem::error(format!("{}.{field}", self.path), message).help(help));
    }

    /// Adds a warning about a field.
    pub(super) fn warning(&mut self, field: &str, message: impl Into<String>, help: impl Into<String>) {
        self.problems
            .push(Problem::warning(format!("{}.{field}", self.path), message).help(help));
    }

    /// Adds a warning for a field that needs the setting `wants`.
    pub(super) fn without_effect(&mut self, field: &str, wants: &str) {
        let message = format!("has no effect without `{wants}`");
        self.problems
            .push(Problem::warning(format!("{}.{field}", self.path), message).help(format!("set {}.{wants}, or remove it", self.path)));
    }
}
