//! Starting point of a run: restored weights or a checkpoint to resume from.

use crate::validate::{Problem, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// NeMo's `nl.AutoResume`. Priority: a checkpoint in the run's own folder (of an earlier attempt), then
/// `resume_from_path`, then with `resume_if_exists` the newest checkpoint of `resume_from_directory` or of the same name,
/// then `restore_config` and `adapter_path`, then fresh weights. A run starts over only if there is no checkpoint: if all
/// are damaged or unreadable, it is refused unless `resume_ignore_damaged` is set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AutoResume {
    /// Weights to start from.
    pub restore_config: Option<RestoreConfig>,
    /// Trained weights (adapters, projector) to load on top of the base: a checkpoint, or a folder written by Hugging Face's
    /// PEFT (`adapter_config.json`, `adapter_model.safetensors` or `.bin`). A checkpoint names its base, and a different one is
    /// refused. PEFT does not: `restore_config` must name the right base, and the settings of `peft` must match the
    /// adapter.
    pub adapter_path: Option<PathBuf>,
    /// Checkpoint to resume from: weights, optimizer, step and data position.
    pub resume_from_path: Option<PathBuf>,
    /// With `resume_if_exists`: folder to search for checkpoints, instead of `log_dir/name`.
    pub resume_from_directory: Option<PathBuf>,
    /// Resumes from the newest complete checkpoint under `log_dir/name`: the one with the most steps of the newest run.
    pub resume_if_exists: bool,
    /// Accepts a checkpoint of a finished run, which may have no steps left.
    pub resume_past_end: bool,
    /// With `resume_if_exists`: starts over, with a warning, if there is no checkpoint or
    /// `resume_from_directory` does not exist.
    pub resume_ignore_no_checkpoint: bool,
    /// Starts over, with a warning, if every checkpoint is damaged or unreadable. Otherwise the run is refused.
    pub resume_ignore_damaged: bool,
}

/// Weights to start from: NeMo's `nl.RestoreConfig`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreConfig {
    /// A Hugging Face folder, a checkpoint of neva-run, `nemo://ORG/NAME` in the model cache, or `hf://ORG/NAME[@REVISION]`
    /// in the hub.
    pub path: String,
    /// Loads the weights; otherwise they are freshly initialized.
    #[serde(default = "yes")]
    pub load_model_state: bool,
    /// Loads the optimizer's moments from a checkpoint of neva-run; steps still start at 0.
    #[serde(default)]
    pub load_optim_state: bool,
    /// Loads the tokenizer and the image processor next to the weights, unless the data names its own.
    #[serde(default = "yes")]
    pub load_artifacts: bool,
}

fn yes() -> bool {
    true
}

impl RestoreConfig {
    /// Loads weights and artifacts of `path`.
    pub fn weights(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            load_model_state: true,
            load_optim_state: false,
            load_artifacts: true,
        }
    }
}

impl Validate for AutoResume {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        if self.resume_from_directory.is_some() && !self.resume_if_exists {
            problems.push(
                Problem::error(
                    format!("{path}.resume_from_directory"),
                    "`resume_from_directory` has no effect unless `resume_if_exists` is true",
                )
                .help(format!("--set {path}.resume_if_exists=true")),
            );
        }
        if self
            .restore_config
            .as_ref()
            .is_some_and(|restore| restore.load_optim_state && !restore.load_model_state)
        {
            problems.push(Problem::error(
                format!("{path}.restore_config.load_optim_state"),
                "`load_optim_state` needs `load_model_state`: moments are only valid with their weights",
            ));
        }
    }
}
