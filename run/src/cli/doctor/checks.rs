//! Results of checks.

use std::fmt;

use neva_executors::ExecutorError;
use serde::Serialize;

use crate::error::RunError;

/// Result of one check.
#[derive(Debug, Serialize)]
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) ok: bool,
    pub(super) detail: String,
    pub(super) help: Option<String>,
}

impl Check {
    pub(super) fn ok(name: &'static str, detail: String) -> Self {
        Self {
            name,
            ok: true,
            detail,
            help: None,
        }
    }

    pub(super) fn missing(name: &'static str, error: &RunError) -> Self {
        Self {
            name,
            ok: false,
            detail: error.to_string(),
            help: error.advice(),
        }
    }
}

/// Results of checks, in order. A check that finds a problem which ends the others returns `None`.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub(super) struct Checks(Vec<Check>);

impl Checks {
    /// Adds a check that found nothing wrong.
    pub(super) fn ok(&mut self, name: &'static str, detail: impl Into<String>) {
        self.0.push(Check::ok(name, detail.into()));
    }

    /// Adds a problem, and ends the checks.
    pub(super) fn problem(&mut self, name: &'static str, detail: impl Into<String>, help: impl Into<String>) -> Option<()> {
        self.0.push(Check {
            name,
            ok: false,
            detail: detail.into(),
            help: Some(help.into()),
        });
        None
    }

    /// Adds an error of the executor, with `help` unless it has its own, and ends the checks.
    pub(super) fn error(&mut self, name: &'static str, error: &ExecutorError, help: &str) -> Option<()> {
        let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
        let detail = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
        self.problem(name, detail, error.help().unwrap_or_else(|| help.to_owned()))
    }

    /// Returns the number of problems.
    pub(super) fn missing(&self) -> usize {
        self.0.iter().filter(|check| !check.ok).count()
    }
}

impl Extend<Check> for Checks {
    fn extend<T: IntoIterator<Item = Check>>(&mut self, checks: T) {
        self.0.extend(checks);
    }
}

impl FromIterator<Check> for Checks {
    fn from_iter<T: IntoIterator<Item = Check>>(checks: T) -> Self {
        Self(checks.into_iter().collect())
    }
}

impl fmt::Display for Checks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.0.iter().map(|check| {
            let mark = if check.ok { "ok     " } else { "MISSING" };
            let help = check
                .help
                .as_ref()
                .map_or_else(String::new, |help| format!("\n                   {help}"));
            format!("{mark} {:<10} {}{help}", check.name, check.detail)
        });
        f.write_str(&lines.collect::<Vec<_>>().join("\n"))
    }
}
