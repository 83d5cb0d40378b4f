//! A task of an experiment: what is done, where, and after what.

use crate::executor::Executor;
use crate::finetune::Finetune;
use crate::recipe::Run;
use crate::script::Script;
use crate::validate::{Problem, Validate};
use schemars::JsonSchema;
use serde::de::{self, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;

/// One task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// What is done.
    pub task: Work,
    /// Where; `null` leaves it to the experiment's own.
    #[serde(default)]
    pub executor: Option<Executor>,
    /// What must have ended before, and how.
    #[serde(default)]
    pub depends_on: Vec<Dependency>,
}

/// What a task does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub enum Work {
    /// A fine-tune, resolved. In a file it is a recipe: `_factory_`, arguments and `finetune`, or `recipe: FILE` and
    /// a list of overrides, `set`.
    #[serde(rename = "llm.finetune")]
    Finetune(Box<Run>),
    /// A script.
    #[serde(rename = "run.Script")]
    Script(Script),
}

/// How a dependency must have ended; Slurm's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum When {
    /// Well.
    #[default]
    AfterOk,
    /// In any way.
    AfterAny,
    /// Badly: it failed or was cancelled.
    AfterNotOk,
}

/// An edge: another task, a group or a sweep, and how it must have ended. Of several tasks, all must have.
///
/// In text it is `prepare`, or with another condition `afterany:prepare`; or the map `{task: prepare, when: afterany}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dependency {
    /// Name of the task, group or sweep.
    pub task: String,
    /// How it must have ended.
    pub when: When,
}

impl Task {
    /// A task that depends on nothing and runs where the experiment does.
    pub fn new(work: impl Into<Work>) -> Self {
        Self {
            task: work.into(),
            executor: None,
            depends_on: Vec::new(),
        }
    }
}

impl Work {
    /// The kind, in a word.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Finetune(_) => "finetune",
            Self::Script(_) => "script",
        }
    }
}

impl From<Script> for Work {
    fn from(script: Script) -> Self {
        Self::Script(script)
    }
}

impl From<Run> for Work {
    fn from(run: Run) -> Self {
        Self::Finetune(Box::new(run))
    }
}

impl From<Finetune> for Work {
    fn from(finetune: Finetune) -> Self {
        Run::of(finetune).into()
    }
}

impl<T: Into<Work>> From<T> for Task {
    fn from(work: T) -> Self {
        Self::new(work)
    }
}

impl When {
    /// Every condition, as Slurm spells it.
    pub const NAMES: [(&'static str, Self); 3] = [
        ("afterok", Self::AfterOk),
        ("afterany", Self::AfterAny),
        ("afternotok", Self::AfterNotOk),
    ];

    /// Its spelling.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, when)| *when == self).map_or("", |(name, _)| name)
    }
}

impl Dependency {
    /// The edge that needs a good end of `task`.
    pub fn on(task: impl Into<String>) -> Self {
        Self::when(When::AfterOk, task)
    }

    /// An edge with its condition.
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
            "description": "What must have ended before: `prepare`, `afterany:prepare`, or {task: prepare, when: afterany}.",
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

/// Reads both forms without buffering, so that errors keep their place.
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
            Work::Finetune(run) => run.validate(&format!("{path}.task"), problems),
            Work::Script(script) => script.validate(&format!("{path}.task"), problems),
        }
        if let Some(executor) = &self.executor {
            executor.validate(&format!("{path}.executor"), problems);
        }
    }
}
