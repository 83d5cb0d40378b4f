//! Where a job runs, and how patiently: what an executor file and a workspace file hold.

use crate::contract::env;
use crate::secret::names_secret;
use crate::validate::{Problem, Validate};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A place to run, as `_target_` names it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub enum Executor {
    /// Processes on this machine.
    #[serde(rename = "run.LocalExecutor")]
    Local(LocalExecutor),
}

impl Default for Executor {
    fn default() -> Self {
        Self::Local(LocalExecutor::default())
    }
}

impl Executor {
    /// Environment that the job's processes get beside what the launcher sets.
    pub fn env_vars(&self) -> &BTreeMap<String, String> {
        match self {
            Self::Local(local) => &local.env_vars,
        }
    }

    /// Names of variables that the job takes from the launcher's environment.
    pub fn env_from(&self) -> &[String] {
        match self {
            Self::Local(local) => &local.env_from,
        }
    }

    /// Attempts after the first.
    pub fn retries(&self) -> u32 {
        match self {
            Self::Local(local) => local.retries,
        }
    }

    /// Changes the attempts after the first.
    pub fn set_retries(&mut self, retries: u32) {
        match self {
            Self::Local(local) => local.retries = retries,
        }
    }
}

impl Validate for Executor {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        match self {
            Self::Local(local) => local.validate(path, problems),
        }
    }
}

/// Starts a process for each rank on this machine: NeMo-Run's `LocalExecutor`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LocalExecutor {
    /// Environment of the job's processes, by name; names keep their case and values every character. The launch
    /// plan holds them, so secrets do not belong here: see `env_from`.
    #[schemars(schema_with = "text_map")]
    pub env_vars: BTreeMap<String, String>,
    /// Names of variables whose values the job takes from the environment in which it is launched. Values are
    /// never written down, so this is the place of a token or a password.
    pub env_from: Vec<String>,
    /// Attempts after the first, each from the last checkpoint: 2 make three. Wrong input and bugs are not tried
    /// again.
    pub retries: u32,
    /// Seconds that the peers of a failed rank have to end by themselves and tell why, before SIGTERM.
    #[schemars(range(max = 86400))]
    pub settle_s: u64,
    /// Seconds after SIGTERM that a rank has to save a checkpoint and leave, before SIGKILL.
    #[schemars(range(max = 86400))]
    pub grace_s: u64,
}

impl Default for LocalExecutor {
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

/// Text by name, where a file may write `OMP_NUM_THREADS: 4` without quotes.
pub(crate) fn text_map(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "additionalProperties": { "type": ["string", "number", "boolean"] } })
}

/// Longest wait for ranks to end, in seconds: a day.
const LONGEST_WAIT_S: u64 = 86_400;

impl Validate for LocalExecutor {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        let field = |name: &str| {
            if path.is_empty() {
                name.to_owned()
            } else {
                format!("{path}.{name}")
            }
        };
        for (name, value) in [("settle_s", self.settle_s), ("grace_s", self.grace_s)] {
            if value > LONGEST_WAIT_S {
                problems.push(Problem::error(
                    field(name),
                    format!("`{name}` {value} is longer than a day ({LONGEST_WAIT_S} seconds)"),
                ));
            }
        }
        for (name, value) in &self.env_vars {
            validate_variable(&field("env_vars"), name, value, problems);
        }
        for (index, name) in self.env_from.iter().enumerate() {
            let path = format!("{}[{index}]", field("env_from"));
            problems.extend(bad_name(name).map(|message| Problem::error(path, message)));
        }
    }
}

/// Appends what is wrong with a variable that is written down in the map at `map`.
pub(crate) fn validate_variable(map: &str, name: &str, value: &str, problems: &mut Vec<Problem>) {
    let quoted = name.replace('\\', "\\\\").replace('"', "\\\"");
    let path = format!("{map}.\"{quoted}\"");
    if let Some(message) = bad_name(name) {
        problems.push(Problem::error(path, message));
    } else if SET_BY_LAUNCHER.contains(&name) {
        problems.push(Problem::error(path, format!("{name} is the launcher's to set")).help("remove it"));
    } else if names_secret(name) {
        let message = format!("{name} looks like a secret, and what stands here is written to disk");
        let help = format!("remove it, `export {name}=...` where you start the job, and name it in `env_from: [{name}]`");
        problems.push(Problem::error(path, message).help(help).secret());
    } else if value.contains('\0') {
        problems.push(Problem::error(path, format!("the value of {name} holds a NUL character")));
    }
}

/// Why `name` cannot be the name of a variable. Others than these no shell can set.
fn bad_name(name: &str) -> Option<String> {
    let good = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !name.starts_with(|c: char| c.is_ascii_digit());
    (name.is_empty() || !good).then(|| format!("{name:?} cannot be the name of an environment variable: it takes letters, digits and `_`"))
}

/// What tells a rank who it is.
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
