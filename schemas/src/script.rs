//! A program in a text, as a task of an experiment: NeMo-Run's `run.Script`.

use crate::executor::{text_map, validate_variable};
use crate::validate::{Problem, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Longest text of a script, in bytes.
pub const SCRIPT_LIMIT: u64 = 1 << 20;

/// A text and the program that reads it. The text is a file's, read when the experiment is started, or is written
/// in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Script {
    /// File that holds the text. What runs is a copy of it, kept with the experiment.
    pub path: Option<PathBuf>,
    /// The text itself.
    pub inline: Option<String>,
    /// Arguments behind the script.
    pub args: Vec<String>,
    /// Environment of the script; it goes before that of the executor.
    #[schemars(schema_with = "text_map")]
    pub env: BTreeMap<String, String>,
    /// Program that reads the text, with its own arguments: `bash -eu`, `python3`.
    pub entrypoint: String,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            path: None,
            inline: None,
            args: Vec::new(),
            env: BTreeMap::new(),
            entrypoint: "bash".into(),
        }
    }
}

impl Script {
    /// A script whose text stands here.
    pub fn inline(text: impl Into<String>) -> Self {
        Self {
            inline: Some(text.into()),
            ..Self::default()
        }
    }

    /// A script whose text is the file at `path`.
    pub fn path(path: impl Into<PathBuf>) -> Self {
        Self {
            path: Some(path.into()),
            ..Self::default()
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<T: Into<String>>(mut self, args: impl IntoIterator<Item = T>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Has another program read the text.
    #[must_use]
    pub fn entrypoint(mut self, program: impl Into<String>) -> Self {
        self.entrypoint = program.into();
        self
    }
}

/// A script that is about to run: what an executor makes a job of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScriptPlan {
    /// Name of the task.
    pub name: String,
    /// The job's folder, absolute.
    pub run_dir: PathBuf,
    /// The folder that it starts in, absolute.
    pub working_directory: PathBuf,
    /// The script's text.
    pub text: String,
    /// Program that reads the text, with its own arguments. Not empty.
    pub entrypoint: Vec<String>,
    /// Arguments behind the script.
    pub args: Vec<String>,
    /// Environment in addition to the launcher's. Secrets do not belong here: the plan is written to disk.
    pub env: BTreeMap<String, String>,
}

impl Validate for Script {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        match (&self.path, &self.inline) {
            (Some(_), Some(_)) => problems.push(
                Problem::error(format!("{path}.inline"), "`path` and `inline` both give the script's text").help("remove one of them"),
            ),
            (None, None) => problems
                .push(Problem::error(path, "the script has no text").help("give a file with `path`, or the text itself with `inline`")),
            _ => {}
        }
        let entrypoint = format!("{path}.entrypoint");
        if self.entrypoint.trim().is_empty() {
            problems.push(Problem::error(&entrypoint, "`entrypoint` is empty").help("name a program, as in `bash` or `python3`"));
        }
        let args = self
            .args
            .iter()
            .enumerate()
            .map(|(index, text)| (format!("{path}.args[{index}]"), text));
        for (place, text) in args.chain([(entrypoint, &self.entrypoint)]) {
            if text.contains('\0') {
                problems.push(Problem::error(place, "no argument of a program can hold a NUL character"));
            }
        }
        for (name, value) in &self.env {
            validate_variable(&format!("{path}.env"), name, value, problems);
        }
    }
}
