//! Workspace files, except the defaults of recipes.

use crate::executor::ExecutorConfig;
use crate::validate::{Problem, Validate, field};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Settings of a workspace file. The file's `defaults` are part of a recipe file. Their types depend on the recipe
/// that overrides them, so they are not included here.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename = "Workspace", deny_unknown_fields, default)]
pub struct WorkspaceConfig {
    /// Executors by name, for `--executor`.
    pub executors: BTreeMap<String, ExecutorConfig>,
    /// Name of the executor to use if the command line names none: `local`, `docker`, `slurm`, `kubernetes`, or one of
    /// `executors`.
    pub executor: Option<String>,
    /// Folder of all runs if neither recipe file nor command line names one; a relative path is relative to the
    /// workspace file.
    pub dir: Option<PathBuf>,
}

/// Name of the executor that exists without a workspace file.
pub const LOCAL: &str = "local";
/// Name of the container executor with its default settings, which exists without a workspace file.
pub const DOCKER: &str = "docker";
/// Name of the Slurm executor with its default settings, which exists without a workspace file.
pub const SLURM: &str = "slurm";
/// Name of the Kubernetes executor with its default settings, which exists without a workspace file.
pub const KUBERNETES: &str = "kubernetes";

impl Validate for WorkspaceConfig {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        let field = |name: &str| field(path, name);
        for (name, executor) in &self.executors {
            let quoted = name.replace('\\', "\\\\").replace('"', "\\\"");
            let path = format!("{}.\"{quoted}\"", field("executors"));
            if name.is_empty() || name.contains(['/', '.']) {
                problems.push(
                    Problem::error(
                        &path,
                        format!("{name:?} cannot be the name of an executor: it would be read as a file"),
                    )
                    .help("use letters, digits, `-` and `_`"),
                );
            }
            executor.validate(&path, problems);
        }
        if let Some(name) = self
            .executor
            .as_ref()
            .filter(|name| ![LOCAL, DOCKER, SLURM, KUBERNETES].contains(&name.as_str()) && !self.executors.contains_key(*name))
        {
            let names: Vec<_> = self
                .executors
                .keys()
                .map(String::as_str)
                .chain([LOCAL, DOCKER, SLURM, KUBERNETES])
                .collect();
            problems.push(
                Problem::error(field("executor"), format!("there is no executor `{name}`"))
                    .help(format!("the executors here are {}", names.join(", "))),
            );
        }
    }
}
