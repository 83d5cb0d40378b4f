//! Where a run writes, and when it saves.

use crate::validate::{Problem, Validate, nonzero};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// NeMo's `nl.NeMoLogger`: the run's folder is `log_dir/name/<date>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// Folder that holds all runs; `null` means `nemo_experiments` in the working directory.
    pub log_dir: Option<PathBuf>,
    /// Name of the run.
    pub name: String,
    /// Saving.
    pub ckpt: ModelCheckpoint,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            log_dir: None,
            name: "default".into(),
            ckpt: ModelCheckpoint::default(),
        }
    }
}

/// When a checkpoint is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ModelCheckpoint {
    /// A checkpoint every so many steps; `null` saves at the end only.
    pub every_n_train_steps: Option<u64>,
    /// Older checkpoints that are kept beside the newest.
    pub save_top_k: u64,
    /// Saves when the run is over.
    pub save_on_train_end: bool,
}

impl Default for ModelCheckpoint {
    fn default() -> Self {
        Self {
            every_n_train_steps: None,
            save_top_k: 10,
            save_on_train_end: true,
        }
    }
}

impl Validate for Log {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        if self.name.is_empty() || self.name.contains(['/', '\\', '\0']) || self.name == "." || self.name == ".." {
            problems.push(
                Problem::error(format!("{path}.name"), format!("{:?} cannot be the name of a folder", self.name))
                    .help("use letters, digits, `-` and `_`"),
            );
        }
        nonzero(
            &format!("{path}.ckpt"),
            problems,
            &[("every_n_train_steps", self.ckpt.every_n_train_steps.unwrap_or(1))],
        );
    }
}
