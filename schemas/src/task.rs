//! Tasks of an experiment and their dependencies.

use crate::executor::ExecutorConfig;
use crate::finetune::Finetune;
use crate::recipe::Run;
use crate::script::Script;
use crate::validate::{Problem, Validate};
use schemars::JsonSchema;
use serde::de::{self, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;

/// A task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Work of the task.
    pub task: TaskSpec,
    /// Executor of the task; `null` uses the experiment's.
    #[serde(default)]
    pub executor: Option<ExecutorConfig>,
    /// Dependencies: tasks that must end first, and how.
    #[serde(default)]
    pub depends_on: Vec<Dependency>,
}

/// Work of a task: a fine-tune or a script.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
#[serde(rename = "Work")]
pub enum TaskSpec {
    /// A resolved fine-tune. In a file it is a recipe: `_factory_`, arguments and `finetune`, or `recipe: FILE` and
    /// a list of overrides, `set`.
    #[serde(rename = "llm.finetune")]
    Finetune(Box<Run>),
    /// A script.
    #[serde(rename = "run.Script")]
    Script(Script),
}

/// Condition of a dependency; Slurm's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum When {
    /// It succeeded.
    #[default]
    AfterOk,
    /// It ended in any state.
    AfterAny,
    /// It failed or was cancelled.
    AfterNotOk,
}

/// A dependency on a task, a group or a sweep, with its condition. All tasks of a group or sweep must meet it.
///
/// It is written as `prepare`, as `afterany:prepare`, or as `{task: prepare, when: afterany}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dependency {
    /// Name of the task, group or sweep.
    pub task: String,
    /// Condition.
    pub when: When,
}

impl Task {
    /// Creates a task without dependencies that runs on the experiment's executor.
    pub fn new(spec: impl Into<TaskSpec>) -> Self {
        Self {
            task: spec.into(),
            executor: None,
            depends_on: Vec::new(),
        }
    }
}

impl TaskSpec {
    /// Returns the kind as one word.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Finetune(_) => "finetune",
            Self::Script(_) => "script",
        }
    }
}

impl From<Script> for TaskSpec {
    fn from(script: Script) -> Self {
        Self::Script(script)
    }
}

impl From<Run> for TaskSpec {
    fn from(run: Run) -> Self {
        Self::Finetune(Box::new(run))
    }
}

impl From<Finetune> for TaskSpec {
    fn from(finetune: Finetune) -> Self {
        Run::from_finetune(finetune).into()
    }
}

impl<T: Into<TaskSpec>> From<T> for Task {
    fn from(spec: T) -> Self {
        Self::new(spec)
    }
}

impl When {
    /// All conditions with Slurm's names.
    pub const NAMES: [(&'static str, Self); 3] = [
        ("afterok", Self::AfterOk),
        ("afterany", Self::AfterAny),
        ("afternotok", Self::AfterNotOk),
    ];

    /// Returns Slurm's name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, when)| *when == self).map_or("", |(name, _)| name)
    }
}

impl Dependency {
    /// Creates a dependency on the success of `task`.
    pub fn on(task: impl Into<String>) -> Self {
        Self::when(When::AfterOk, task)
    }

    /// Creates a dependency with a condition.
    pub fn when(when: When, task: impl Into<String>) -> Self {
        Self { task: task.into(), when }
    }
}

impl fmt::Display for Dependency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.when {
            When::AfterOk => f.write_str(&self.task),
            when => write!(f, "{}:{}", when.name(), self.task),
        }
    }
}

impl JsonSchema for Dependency {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Dependency".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let when = generator.subschema_for::<When>();
        schemars::json_schema!({
            "description": "Dependency: `prepare`, `afterany:prepare`, or {task: prepare, when: afterany}.",
            "anyOf": [
                { "type": "string", "pattern": "^((afterok|afterany|afternotok):)?[^:]+$" },
                {
                    "type": "object",
                    "required": ["task"],
                    "additionalProperties": false,
                    "properties": { "task": { "type": "string" }, "when": when },
                },
            ],
        })
    }
}

/// Deserializes both forms without buffering, so that errors keep their positions.
impl<'de> Deserialize<'de> for Dependency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            task: String,
            #[serde(default)]
            when: When,
        }
        struct Forms;
        impl<'de> Visitor<'de> for Forms {
            type Value = Dependency;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a task")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Dependency, E> {
                let Some((name, task)) = text.split_once(':') else {
                    return Ok(Dependency::on(text));
                };
                let when = When::NAMES.iter().find(|(known, _)| *known == name);
                let (_, when) = when.ok_or_else(|| E::unknown_variant(name, &["afterok", "afterany", "afternotok"]))?;
                Ok(Dependency::when(*when, task))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Dependency, A::Error> {
                let Fields { task, when } = Fields::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Dependency { task, when })
            }
        }
        deserializer.deserialize_any(Forms)
    }
}

impl Validate for Task {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        match &self.task {
            TaskSpec::Finetune(run) => run.validate(&format!("{path}.task"), problems),
            TaskSpec::Script(script) => script.validate(&format!("{path}.task"), problems),
        }
        if let Some(executor) = &self.executor {
            executor.validate(&format!("{path}.executor"), problems);
        }
    }
}
