//! Run folder, loggers and checkpointing.

use crate::callback::{MetricMode, validate_monitor};
use crate::name::{MAX_NAME_LENGTH, name_error};
use crate::period::{Period, validate_period};
use crate::validate::{Problem, Validate, named_folder, nonzero};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// NeMo's `nl.NeMoLogger`: the run's folder is `log_dir/name/<date>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// Folder of all runs; `null` means `nemo_experiments` in the working directory.
    pub log_dir: Option<PathBuf>,
    /// Name of the run.
    pub name: String,
    /// Checkpointing.
    pub ckpt: ModelCheckpoint,
    /// Writes TensorBoard event files to `tb_logs` in the run's folder.
    pub tensorboard: bool,
    /// Logs metrics to an MLflow server; `null` disables it.
    pub mlflow: Option<MlflowLogger>,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            log_dir: None,
            name: "default".into(),
            ckpt: ModelCheckpoint::default(),
            tensorboard: true,
            mlflow: None,
        }
    }
}

/// An MLflow server. Credentials are read on the machine of the run, from MLflow's own variables
/// `MLFLOW_TRACKING_TOKEN`, or `MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MlflowLogger {
    /// URL of the server, for example `http://mlflow.example:5000`.
    pub tracking_uri: String,
    /// Experiment of the run; created if it does not exist.
    #[serde(default = "default_experiment")]
    pub experiment_name: String,
    /// Name of the run; `null` means `log.name`.
    #[serde(default)]
    pub run_name: Option<String>,
    /// Tags of the run.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

fn default_experiment() -> String {
    "neva-run".into()
}

/// When to save checkpoints and which to keep: NeMo's `nl.ModelCheckpoint`. The saving conditions are independent of
/// each other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ModelCheckpoint {
    /// Number of steps between checkpoints.
    pub every_n_train_steps: Option<u64>,
    /// Time between checkpoints.
    pub train_time_interval: Option<Period>,
    /// Always keeps the latest checkpoint; its name ends in `-last`.
    pub save_last: bool,
    /// Number of best checkpoints to keep besides the last, by `monitor`; among equals the newest; -1 keeps all. A
    /// validation that is among the best saves a checkpoint.
    pub save_top_k: i64,
    /// Monitored metric: `val_loss`, `reduced_train_loss` or `grad_norm`.
    pub monitor: String,
    /// `min` if lower values are better, `max` if higher.
    pub mode: MetricMode,
    /// Saves without the optimizer state. Such checkpoints are smaller, but no run can resume from them.
    pub save_weights_only: bool,
    /// Saves a checkpoint at the end of training.
    pub save_on_train_end: bool,
    /// Saves asynchronously: weights and moments are copied to the host, and a thread of each rank writes them. Needs
    /// 12 bytes of host memory per trained value; `false` pauses training instead.
    pub ckpt_async_save: bool,
}

impl Default for ModelCheckpoint {
    fn default() -> Self {
        Self {
            every_n_train_steps: None,
            train_time_interval: Some(Period::minutes(15)),
            save_last: true,
            save_top_k: 10,
            monitor: "val_loss".into(),
            mode: MetricMode::Min,
            save_weights_only: false,
            save_on_train_end: true,
            ckpt_async_save: true,
        }
    }
}

impl Validate for Log {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        problems.extend(name_error(&self.name, MAX_NAME_LENGTH).map(|message| Problem::error(format!("{path}.name"), message)));
        named_folder(path, problems, "log_dir", self.log_dir.as_deref());
        if let Some(mlflow) = &self.mlflow {
            mlflow.validate(&format!("{path}.mlflow"), problems);
        }
        self.ckpt.validate(&format!("{path}.ckpt"), problems);
    }
}

impl Validate for MlflowLogger {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        let (uri, at) = (&self.tracking_uri, format!("{path}.tracking_uri"));
        let (scheme, rest) = uri.split_once("://").unwrap_or(("", uri));
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if rest.contains('@') {
            problems.push(
                Problem::error(at, "`tracking_uri` holds a user name or a password, which would be written to disk")
                    .help("remove it, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN")
                    .secret(),
            );
        } else if !["http", "https"].contains(&scheme) || host.is_empty() {
            let message = format!("{uri:?} is not the URL of a server");
            problems.push(Problem::error(at, message).help("write http://HOST:PORT or https://HOST"));
        }
        if self.experiment_name.is_empty() {
            problems.push(Problem::error(format!("{path}.experiment_name"), "`experiment_name` is empty"));
        }
    }
}

impl Validate for ModelCheckpoint {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        nonzero(path, problems, &[("every_n_train_steps", self.every_n_train_steps.unwrap_or(1))]);
        validate_period(path, problems, "train_time_interval", self.train_time_interval);
        if self.save_top_k < -1 {
            let message = format!("`save_top_k` is {}, it must be at least -1", self.save_top_k);
            problems.push(Problem::error(format!("{path}.save_top_k"), message).help("-1 keeps all checkpoints, 0 only the last"));
        }
        validate_monitor(path, &self.monitor, problems);
        if !self.save_last && self.save_top_k == 0 {
            let message = "`save_last` is false and `save_top_k` is 0: no checkpoint would be kept";
            problems.push(Problem::error(format!("{path}.save_last"), message).help("set one of them"));
        }
    }
}
