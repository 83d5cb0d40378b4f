//! What a team's workspace file holds, beside the defaults of its recipes.

use crate::executor::Executor;
use crate::validate::{Problem, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The settings of a workspace file. The file's `defaults` are a part of a recipe file, whose types depend on the
/// recipe that they are laid under, so they are not in here.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Workspace {
    /// Executors by the name that `--executor` takes.
    pub executors: BTreeMap<String, Executor>,
    /// Name of the executor that is taken where the command line names none: `local`, or one of `executors`.
    pub executor: Option<String>,
    /// Folder that holds all runs where neither recipe file nor command line names one; a relative path starts at
    /// the workspace file.
    pub dir: Option<PathBuf>,
}

/// Name of the executor that is there without a workspace file.
pub const LOCAL: &str = "local";

impl Validate for Workspace {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        let field = |name: &str| {
            if path.is_empty() {
                name.to_owned()
            } else {
                format!("{path}.{name}")
            }
        };
        for (name, executor) in &self.executors {
            let quoted = name.replace('\\', "\\\\").replace('"', "\\\"");
            let path = format!("{}.\"{quoted}\"", field("executors"));
            if name.is_empty() || name.contains(['/', '.']) {
                problems.push(
                    Problem::error(
                        &path,
                        format!("{name:?} cannot be the name of an executor: it would be taken for a file"),
                    )
                    .help("use letters, digits, `-` and `_`"),
                );
            }
            executor.validate(&path, problems);
        }
        if let Some(name) = self
            .executor
            .as_ref()
            .filter(|name| *name != LOCAL && !self.executors.contains_key(*name))
        {
            let names: Vec<_> = self.executors.keys().map(String::as_str).chain([LOCAL]).collect();
            problems.push(
                Problem::error(field("executor"), format!("there is no executor `{name}`"))
                    .help(format!("the executors here are {}", names.join(", "))),
            );
        }
    }
}
