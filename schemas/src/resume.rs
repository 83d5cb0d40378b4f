//! What a run starts from.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// NeMo's `nl.AutoResume`. Priority: `resume_from_path`, then the newest checkpoint of the same name
/// when `resume_if_exists`, then `restore_config`, then fresh weights.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AutoResume {
    /// Weights to start from.
    pub restore_config: Option<RestoreConfig>,
    /// Checkpoint to go on from: weights, optimizer, step and data position.
    pub resume_from_path: Option<PathBuf>,
    /// Goes on from the newest complete checkpoint under `log_dir/name`.
    pub resume_if_exists: bool,
    /// With `resume_if_exists`: starts afresh, with a warning, where there is no checkpoint.
    pub resume_ignore_no_checkpoint: bool,
}

/// Weights to start from: NeMo's `nl.RestoreConfig`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreConfig {
    /// A Hugging Face folder, a checkpoint of ours, or `nemo://ORG/NAME` in the model cache.
    pub path: String,
}
