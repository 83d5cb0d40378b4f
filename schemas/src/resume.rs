//! What a run starts from.

use crate::validate::{Problem, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// NeMo's `nl.AutoResume`. Priority: a checkpoint in the run's own folder (an earlier attempt), then
/// `resume_from_path`, then the newest checkpoint of `resume_from_directory` or of the same name when
/// `resume_if_exists`, then `restore_config` and `adapter_path`, then fresh weights.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AutoResume {
    /// Weights to start from.
    pub restore_config: Option<RestoreConfig>,
    /// Trained weights (adapters, projector) that are put over the base to start from: of a checkpoint, or of a folder
    /// that Hugging Face's PEFT wrote (`adapter_config.json`, `adapter_model.safetensors`). A checkpoint says which base
    /// it was trained on, and another one is refused. PEFT does not: `restore_config` must name the right one, and
    /// `dim`, `alpha` and the targets of `peft` must be the adapter's.
    pub adapter_path: Option<PathBuf>,
    /// Checkpoint to go on from: weights, optimizer, step and data position.
    pub resume_from_path: Option<PathBuf>,
    /// With `resume_if_exists`: the folder of checkpoints to look in, in place of `log_dir/name`.
    pub resume_from_directory: Option<PathBuf>,
    /// Goes on from the newest whole checkpoint under `log_dir/name`.
    pub resume_if_exists: bool,
    /// Accepts a checkpoint of a run that came to its end: there may be nothing left to do.
    pub resume_past_end: bool,
    /// With `resume_if_exists`: starts afresh, with a warning, where there is no checkpoint.
    pub resume_ignore_no_checkpoint: bool,
}

/// Weights to start from: NeMo's `nl.RestoreConfig`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreConfig {
    /// A Hugging Face folder, a checkpoint of ours, or `nemo://ORG/NAME` in the model cache.
    pub path: String,
    /// Takes the weights; without them they are fresh.
    #[serde(default = "yes")]
    pub load_model_state: bool,
    /// Takes the optimizer's moments too, out of a checkpoint of ours; steps are counted from 0 all the same.
    #[serde(default)]
    pub load_optim_state: bool,
    /// Takes the tokenizer and the image processor that lie beside the weights, where the data names none.
    #[serde(default = "yes")]
    pub load_artifacts: bool,
}

fn yes() -> bool {
    true
}

impl RestoreConfig {
    /// Weights and artifacts of `path`.
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
                    "`resume_from_directory` is looked at only where `resume_if_exists` is true",
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
                "moments belong to the weights that they were measured on: `load_optim_state` needs `load_model_state`",
            ));
        }
    }
}
