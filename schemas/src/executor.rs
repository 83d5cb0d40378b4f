//! Executor configs: the contents of executor files and of `executors` in workspace files.

use crate::contract::env;
use crate::secret::is_secret_name;
use crate::slurm::SlurmExecutorConfig;
use crate::validate::{Problem, Validate};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Config of an executor, chosen by `_target_`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename = "Executor")]
pub enum ExecutorConfig {
    /// Processes on this machine.
    #[serde(rename = "run.LocalExecutor")]
    Local(LocalExecutorConfig),
    /// A job of a Slurm cluster.
    #[serde(rename = "run.SlurmExecutor")]
    Slurm(Box<SlurmExecutorConfig>),
}

impl Default for ExecutorConfig {
    fn default() -> Self {
        Self::Local(LocalExecutorConfig::default())
    }
}

impl ExecutorConfig {
    /// Returns the additional environment of the job's processes.
    pub fn env_vars(&self) -> &BTreeMap<String, String> {
        match self {
            Self::Local(local) => &local.env_vars,
            Self::Slurm(slurm) => &slurm.env_vars,
        }
    }

    /// Returns the names of variables that are passed on from the launcher's environment.
    pub fn env_from(&self) -> &[String] {
        match self {
            Self::Local(local) => &local.env_from,
            Self::Slurm(slurm) => &slurm.env_from,
        }
    }

    /// Returns the maximum number of retries.
    pub fn retries(&self) -> u32 {
        match self {
            Self::Local(local) => local.retries,
            Self::Slurm(slurm) => slurm.retries,
        }
    }

    /// Returns the maximum number of retries that the launcher makes itself. A Slurm job requeues itself.
    pub fn launcher_retries(&self) -> u32 {
        match self {
            Self::Local(local) => local.retries,
            Self::Slurm(_) => 0,
        }
    }

    /// Returns true if jobs of both are in one queue, so that one can wait for another.
    pub fn same_queue(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Slurm(one), Self::Slurm(other)) => one.tunnel == other.tunnel,
            _ => false,
        }
    }

    /// Sets the maximum number of retries.
    pub fn set_retries(&mut self, retries: u32) {
        match self {
            Self::Local(local) => local.retries = retries,
            Self::Slurm(slurm) => slurm.retries = retries,
        }
    }
}

impl Validate for ExecutorConfig {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        match self {
            Self::Local(local) => local.validate(path, problems),
            Self::Slurm(slurm) => slurm.validate(path, problems),
        }
    }
}

/// Starts a process for each rank on this machine: NeMo-Run's `LocalExecutor`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename = "LocalExecutor", deny_unknown_fields, default)]
pub struct LocalExecutorConfig {
    /// Environment variables of the job's processes. Names are case-sensitive; values may hold any character. They are
    /// stored in the launch plan, so use `env_from` for secrets.
    #[schemars(schema_with = "text_map")]
    pub env_vars: BTreeMap<String, String>,
    /// Names of variables passed on from the environment of the launcher. Their values are never written to disk, so
    /// use this for tokens and passwords.
    pub env_from: Vec<String>,
    /// Maximum number of retries of a failed job, each from the last checkpoint. Wrong input and bugs are not retried.
    pub retries: u32,
    /// Seconds that the peers of a failed rank have to exit and record their failure, before SIGTERM.
    #[schemars(range(max = 86400))]
    pub settle_s: u64,
    /// Grace period in seconds after SIGTERM: time for a rank to save a checkpoint and exit, before SIGKILL.
    #[schemars(range(max = 86400))]
    pub grace_s: u64,
}

impl Default for LocalExecutorConfig {
    fn default() -> Self {
        Self {
            env_vars: BTreeMap::new(),
            env_from: Vec::new(),
            retries: 0,
            settle_s: 2,
            grace_s: 30,
        }
    }
}

/// Schema of a map of strings, in which a file may write `OMP_NUM_THREADS: 4` without quotes.
pub(crate) fn text_map(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "additionalProperties": { "type": ["string", "number", "boolean"] } })
}

/// Schema of a text, which a file may write as a number without quotes: `time: 90`.
pub(crate) fn text(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["string", "number"] })
}

/// As [`text`], or `null`.
pub(crate) fn optional_text(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["string", "number", "null"] })
}

/// Schema of a list of texts as [`text`].
pub(crate) fn texts(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "items": { "type": ["string", "number"] } })
}

/// Maximum wait for ranks to exit, in seconds: a day.
const MAX_WAIT_S: u64 = 86_400;

impl Validate for LocalExecutorConfig {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        let field = |name: &str| {
            if path.is_empty() {
                name.to_owned()
            } else {
                format!("{path}.{name}")
            }
        };
        for (name, value) in [("settle_s", self.settle_s), ("grace_s", self.grace_s)] {
            if value > MAX_WAIT_S {
                problems.push(Problem::error(
                    field(name),
                    format!("`{name}` {value} is longer than a day ({MAX_WAIT_S} seconds)"),
                ));
            }
        }
        for (name, value) in &self.env_vars {
            validate_variable(&field("env_vars"), name, value, problems);
        }
        for (index, name) in self.env_from.iter().enumerate() {
            let path = format!("{}[{index}]", field("env_from"));
            problems.extend(variable_name_error(name).map(|message| Problem::error(path, message)));
        }
    }
}

/// Appends the problems of a variable in the map at path `map`.
pub(crate) fn validate_variable(map: &str, name: &str, value: &str, problems: &mut Vec<Problem>) {
    let quoted = name.replace('\\', "\\\\").replace('"', "\\\"");
    let path = format!("{map}.\"{quoted}\"");
    if let Some(message) = variable_name_error(name) {
        problems.push(Problem::error(path, message));
    } else if SET_BY_LAUNCHER.contains(&name) {
        problems.push(Problem::error(path, format!("{name} is set by the launcher")).help("remove it"));
    } else if is_secret_name(name) {
        let message = format!("{name} looks like a secret, but this map is written to disk");
        let help = format!("remove it, `export {name}=...` where you start the job, and name it in `env_from: [{name}]`");
        problems.push(Problem::error(path, message).help(help).secret());
    } else if value.contains('\0') {
        problems.push(Problem::error(path, format!("the value of {name} holds a NUL character")));
    }
}

/// Returns an error if `name` is not a valid variable name, one that a shell can set.
pub(crate) fn variable_name_error(name: &str) -> Option<String> {
    let good = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !name.starts_with(|c: char| c.is_ascii_digit());
    (name.is_empty() || !good).then(|| format!("{name:?} is not a valid name of an environment variable: use letters, digits and `_`"))
}

/// Variables that the launcher sets for each rank.
const SET_BY_LAUNCHER: &[&str] = &[
    env::RANK,
    env::WORLD_SIZE,
    env::LOCAL_RANK,
    env::LOCAL_WORLD_SIZE,
    env::MASTER_ADDR,
    env::MASTER_PORT,
    env::TORCHELASTIC_USE_AGENT_STORE,
    env::TORCHELASTIC_RESTART_COUNT,
    env::NEVA_DIE_WITH_PARENT,
    env::NEVA_JOB,
];
