//! JSON output: one document on standard output, and errors as JSON.

use std::io::{self, Write as _};

use serde::Serialize;
use serde_json::json;

use crate::{
    config::{self, ConfigError},
    error::RunError,
    experiment::ExperimentError,
};

/// Writes one JSON document. JSON's escapes are the same as those of [`config::visible`], so the values are exact.
pub(super) fn json_line(value: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_string(value).map_err(io::Error::from)?;
    writeln!(io::stdout(), "{}", config::visible(&text))
}

/// Returns a problem of a configuration as JSON.
pub(super) fn problem_json(problem: &ConfigError) -> serde_json::Value {
    let at = problem.origin.as_ref().map(ToString::to_string);
    json!({
        "kind": problem.problem.kind(),
        "path": problem.path.to_string(),
        "at": at,
        "message": problem.problem.to_string(),
        "help": problem.problem.help(),
    })
}

/// Returns an error as JSON.
pub(super) fn error_json(error: &RunError) -> serde_json::Value {
    let problems = match error {
        RunError::Config(problems) => problems.errors(),
        _ => &[],
    };
    let problems: Vec<_> = problems.iter().map(problem_json).collect();
    let failure = match error {
        RunError::Job(failure) => json!(failure),
        RunError::Rank(failure) => json!(failure),
        RunError::Experiment(ExperimentError::Failed(report)) => json!(report),
        _ => serde_json::Value::Null,
    };
    json!({ "class": error.exit_code(), "message": error.to_string(), "help": error.advice(), "problems": problems, "failure": failure })
}
