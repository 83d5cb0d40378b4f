//! Where a run writes, and when it saves.

use crate::callback::{MetricMode, validate_monitor};
use crate::period::{Period, validate_period};
use crate::validate::{Problem, Validate, nonzero};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
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
    /// Writes TensorBoard event files to `tb_logs` in the run's folder.
    pub tensorboard: bool,
    /// Sends metrics to an MLflow server; `null` sends none.
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

/// An MLflow server. Credentials are read where the run runs, from MLflow's own variables
/// `MLFLOW_TRACKING_TOKEN`, or `MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MlflowLogger {
    /// Address of the server, for example `http://mlflow.example:5000`.
    pub tracking_uri: String,
    /// Experiment that the run belongs to; made where it is not there.
    #[serde(default = "default_experiment")]
    pub experiment_name: String,
    /// Name of the run; `null` takes `log.name`.
    #[serde(default)]
    pub run_name: Option<String>,
    /// Tags of the run.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

fn default_experiment() -> String {
    "neva-run".into()
}

/// When a checkpoint is written, and which are kept: NeMo's `nl.ModelCheckpoint`. Each of the occasions that is
/// set counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ModelCheckpoint {
    /// A checkpoint every so many steps.
    pub every_n_train_steps: Option<u64>,
    /// A checkpoint after so much time.
    pub train_time_interval: Option<Period>,
    /// Keeps the newest checkpoint, whatever its metric; its name ends in `-last`.
    pub save_last: bool,
    /// Best checkpoints that are kept beside it: by `monitor`, the newest of equals; -1 keeps all. A validation
    /// that belongs among them is an occasion to save.
    pub save_top_k: i64,
    /// The metric that tells which are best: `val_loss`, `reduced_train_loss` or `grad_norm`.
    pub monitor: String,
    /// Whether less or more of it is better.
    pub mode: MetricMode,
    /// Leaves the optimizer's state out: smaller checkpoints that no run can go on from.
    pub save_weights_only: bool,
    /// Saves when the run is over.
    pub save_on_train_end: bool,
    /// Writes while training goes on: weights and moments are copied to the host, and a thread of each rank writes
    /// them. Takes the host 12 bytes for each trained value; `false` makes training wait.
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
        if self.name.is_empty() || self.name.contains(['/', '\\', '\0']) || self.name == "." || self.name == ".." {
            problems.push(
                Problem::error(format!("{path}.name"), format!("{:?} cannot be the name of a folder", self.name))
                    .help("use letters, digits, `-` and `_`"),
            );
        }
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
                Problem::error(at, "`tracking_uri` holds a name or a password, which would be written to files")
                    .help("leave it out, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN")
                    .secret(),
            );
        } else if !["http", "https"].contains(&scheme) || host.is_empty() {
            let message = format!("{uri:?} is not the address of a server");
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
