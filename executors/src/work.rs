//! Work of a task: ranks or a script.

use std::{collections::BTreeMap, path::Path};

use neva_schemas::{LaunchPlan, PLAN_FILE, ScriptPlan};

use crate::{error::ExecutorError, submission::JobKind};

/// File in a script's folder with its text.
pub(crate) const SCRIPT_FILE: &str = "script";

/// Work of a task.
#[derive(Debug, Clone, Copy)]
pub enum Work<'a> {
    /// Ranks of a run.
    Ranks(&'a LaunchPlan),
    /// A script.
    Script(&'a ScriptPlan),
}

impl<'a> Work<'a> {
    pub(crate) fn name(self) -> &'a str {
        match self {
            Self::Ranks(plan) => &plan.name,
            Self::Script(script) => &script.name,
        }
    }

    pub(crate) fn dir(self) -> &'a Path {
        match self {
            Self::Ranks(plan) => &plan.run_dir,
            Self::Script(script) => &script.run_dir,
        }
    }

    pub(crate) fn env(self) -> &'a BTreeMap<String, String> {
        match self {
            Self::Ranks(plan) => &plan.env,
            Self::Script(script) => &script.env,
        }
    }

    pub(crate) fn kind(self) -> JobKind {
        match self {
            Self::Ranks(_) => JobKind::Ranks,
            Self::Script(_) => JobKind::Script,
        }
    }

    /// Returns the name and the text of its file.
    pub(crate) fn file(self) -> Result<(&'static str, String), ExecutorError> {
        Ok(match self {
            Self::Ranks(plan) => (PLAN_FILE, serde_json::to_string_pretty(plan)? + "\n"),
            Self::Script(script) => (SCRIPT_FILE, script.text.clone()),
        })
    }
}
