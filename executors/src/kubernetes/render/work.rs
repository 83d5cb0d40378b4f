//! Work of a job: ranks or a script.

use std::{collections::BTreeMap, path::Path};

use neva_schemas::{KubernetesExecutorConfig, LaunchPlan, PLAN_FILE, ScriptPlan};

use crate::{error::ExecutorError, submission::JobKind};

/// File of a script in the job's folder.
pub(super) const SCRIPT_FILE: &str = "script";

/// Work of a job.
#[derive(Debug, Clone, Copy)]
pub(super) enum Work<'a> {
    /// Ranks of a run.
    Ranks(&'a LaunchPlan),
    /// A script.
    Script(&'a ScriptPlan),
}

impl<'a> Work<'a> {
    pub(super) fn name(self) -> &'a str {
        match self {
            Self::Ranks(plan) => &plan.name,
            Self::Script(script) => &script.name,
        }
    }

    pub(super) fn run_dir(self) -> &'a Path {
        match self {
            Self::Ranks(plan) => &plan.run_dir,
            Self::Script(script) => &script.run_dir,
        }
    }

    /// Returns the job's folder as text.
    pub(super) fn dir(self) -> Result<String, ExecutorError> {
        path_text(self.run_dir())
    }

    pub(super) fn env(self) -> &'a BTreeMap<String, String> {
        match self {
            Self::Ranks(plan) => &plan.env,
            Self::Script(script) => &script.env,
        }
    }

    pub(super) fn kind(self) -> JobKind {
        match self {
            Self::Ranks(_) => JobKind::Ranks,
            Self::Script(_) => JobKind::Script,
        }
    }

    /// Returns the name and the text of its file.
    pub(super) fn file(self) -> Result<(&'static str, String), ExecutorError> {
        Ok(match self {
            Self::Ranks(plan) => (PLAN_FILE, serde_json::to_string_pretty(plan)? + "\n"),
            Self::Script(script) => (SCRIPT_FILE, script.text.clone()),
        })
    }

    /// Returns the working directory: a script's own if a volume has it, else the job's folder.
    pub(super) fn folder(self, config: &KubernetesExecutorConfig) -> Result<String, ExecutorError> {
        if let Self::Script(script) = self {
            let folder = path_text(&script.working_directory)?;
            if config.volume_of(&folder).is_some() {
                return Ok(folder);
            }
        }
        self.dir()
    }
}

fn path_text(path: &Path) -> Result<String, ExecutorError> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| ExecutorError::NotUtf8 { path: path.to_owned() })
}
