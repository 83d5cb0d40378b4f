//! Scripts as tasks of an experiment: NeMo-Run's `run.Script`.

use crate::text_schema::text_map;
use crate::validate::{Problem, Validate};
use crate::variable::validate_variable;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Maximum length of a script's text, in bytes.
pub const MAX_SCRIPT_LENGTH: u64 = 1 << 20;

/// A script and its interpreter. The text is read from a file at the start of the experiment, or written inline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Script {
    /// File with the text. The experiment runs its own copy of it.
    pub path: Option<PathBuf>,
    /// Inline text.
    pub inline: Option<String>,
    /// Arguments of the script.
    pub args: Vec<String>,
    /// Environment of the script; it overrides that of the executor.
    #[schemars(schema_with = "text_map")]
    pub env: BTreeMap<String, String>,
    /// Interpreter with its own arguments: `bash -eu`, `python3`.
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
    /// Creates a script with inline text.
    pub fn inline(text: impl Into<String>) -> Self {
        Self {
            inline: Some(text.into()),
            ..Self::default()
        }
    }

    /// Creates a script from the file at `path`.
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

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Sets the interpreter.
    #[must_use]
    pub fn entrypoint(mut self, program: impl Into<String>) -> Self {
        self.entrypoint = program.into();
        self
    }
}

/// A resolved script, for an executor to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScriptPlan {
    /// Name of the task.
    pub name: String,
    /// The job's folder, absolute.
    pub run_dir: PathBuf,
    /// Working directory, absolute.
    pub working_directory: PathBuf,
    /// The script's text.
    pub text: String,
    /// Interpreter with its own arguments. Not empty.
    pub entrypoint: Vec<String>,
    /// Arguments of the script.
    pub args: Vec<String>,
    /// Environment in addition to the launcher's. Secrets do not belong here: the plan is written to disk.
    pub env: BTreeMap<String, String>,
}

impl Validate for Script {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        match (&self.path, &self.inline) {
            (Some(_), Some(_)) => {
                problems.push(Problem::error(format!("{path}.inline"), "both `path` and `inline` are set").help("remove one of them"))
            }
            (None, None) => {
                problems.push(Problem::error(path, "the script has no text").help("set `path` to a file, or `inline` to the text"))
            }
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
                problems.push(Problem::error(place, "an argument must not contain a NUL character"));
            }
        }
        for (name, value) in &self.env {
            validate_variable(&format!("{path}.env"), name, value, problems);
        }
    }
}
