//! The contract between launcher and rank: the environment, the exit codes, the failure record.
//! No other file names the environment variables that pass between the two.

use serde::{Deserialize, Deserializer, Serialize};
use std::path::PathBuf;

/// Names of environment variables.
pub mod env {
    /// Rank in the world; torchrun's name.
    pub const RANK: &str = "RANK";
    /// Number of ranks; torchrun's name.
    pub const WORLD_SIZE: &str = "WORLD_SIZE";
    /// Rank on its node; torchrun's name.
    pub const LOCAL_RANK: &str = "LOCAL_RANK";
    /// Number of ranks on this node; torchrun's name.
    pub const LOCAL_WORLD_SIZE: &str = "LOCAL_WORLD_SIZE";
    /// Host of the rendezvous store; torchrun's name.
    pub const MASTER_ADDR: &str = "MASTER_ADDR";
    /// Port of the rendezvous store; torchrun's name.
    pub const MASTER_PORT: &str = "MASTER_PORT";
    /// Set by torchrun if its agent already serves the rendezvous store, so rank 0 must not.
    pub const TORCHELASTIC_USE_AGENT_STORE: &str = "TORCHELASTIC_USE_AGENT_STORE";
    /// Set by torchrun: number of restarts of the ranks by its agent. The store stays up across restarts.
    pub const TORCHELASTIC_RESTART_COUNT: &str = "TORCHELASTIC_RESTART_COUNT";
    /// Number of this task in its job step; srun's name.
    pub const SLURM_PROCID: &str = "SLURM_PROCID";
    /// Number of tasks of this job step. Only srun sets it; a batch script without srun has none.
    pub const SLURM_STEP_NUM_TASKS: &str = "SLURM_STEP_NUM_TASKS";
    /// Number of this task on its node; srun's name.
    pub const SLURM_LOCALID: &str = "SLURM_LOCALID";
    /// Number of this node in its job step; srun's name.
    pub const SLURM_NODEID: &str = "SLURM_NODEID";
    /// Tasks of each node of the job step, as `2(x3),1`; srun's name.
    pub const SLURM_STEP_TASKS_PER_NODE: &str = "SLURM_STEP_TASKS_PER_NODE";
    /// Nodes of the job step, as `n[1-3,7]`; srun's name.
    pub const SLURM_STEP_NODELIST: &str = "SLURM_STEP_NODELIST";
    /// Ports that Slurm reserves for the job step, as `12000-12003`, where the cluster is set up for it; srun's name.
    pub const SLURM_STEP_RESV_PORTS: &str = "SLURM_STEP_RESV_PORTS";
    /// Number of the job; Slurm's name.
    pub const SLURM_JOB_ID: &str = "SLURM_JOB_ID";
    /// Number of the step in its job; Slurm's name.
    pub const SLURM_STEP_ID: &str = "SLURM_STEP_ID";
    /// Path of the rank program, instead of the `neva-rank` beside `neva-run` or in PATH.
    pub const NEVA_RANK: &str = "NEVA_RANK";
    /// `1`: standard input is a pipe that the launcher holds open while it lives. The rank saves and exits when it
    /// closes.
    pub const NEVA_DIE_WITH_PARENT: &str = "NEVA_DIE_WITH_PARENT";
    /// Set for the processes of a job on this machine: its folder. It identifies them if their launcher is killed.
    pub const NEVA_JOB: &str = "NEVA_JOB";
    /// cuBLAS's own: `:4096:8` makes its results bitwise reproducible.
    pub const CUBLAS_WORKSPACE_CONFIG: &str = "CUBLAS_WORKSPACE_CONFIG";
    /// libgomp's own: number of times an idle thread polls for work before it sleeps. Read when libgomp is loaded.
    pub const GOMP_SPINCOUNT: &str = "GOMP_SPINCOUNT";
    /// OpenMP's own: with `passive` idle threads sleep, with `active` they spin.
    pub const OMP_WAIT_POLICY: &str = "OMP_WAIT_POLICY";
    /// OpenMP's own: the number of threads.
    pub const OMP_NUM_THREADS: &str = "OMP_NUM_THREADS";
    /// CUDA's own: the GPUs visible to a process.
    pub const CUDA_VISIBLE_DEVICES: &str = "CUDA_VISIBLE_DEVICES";
    /// Set by torchrun: the name of its run.
    pub const TORCHELASTIC_RUN_ID: &str = "TORCHELASTIC_RUN_ID";
    /// Filter of log targets and levels, `tracing` syntax.
    pub const NEVA_LOG: &str = "NEVA_LOG";
    /// MLflow's own: token for a tracking server.
    pub const MLFLOW_TRACKING_TOKEN: &str = "MLFLOW_TRACKING_TOKEN";
    /// MLflow's own: user name for a tracking server, with [`MLFLOW_TRACKING_PASSWORD`].
    pub const MLFLOW_TRACKING_USERNAME: &str = "MLFLOW_TRACKING_USERNAME";
    /// MLflow's own: password for [`MLFLOW_TRACKING_USERNAME`].
    pub const MLFLOW_TRACKING_PASSWORD: &str = "MLFLOW_TRACKING_PASSWORD";
    /// Kubeflow Trainer's own: URL to which a TrainJob posts its progress.
    pub const KUBEFLOW_TRAINER_SERVER_URL: &str = "KUBEFLOW_TRAINER_SERVER_URL";
    /// Kubeflow Trainer's own: file of the authority of that server.
    pub const KUBEFLOW_TRAINER_SERVER_CA_CERT: &str = "KUBEFLOW_TRAINER_SERVER_CA_CERT";
    /// Kubeflow Trainer's own: file of the token for that server.
    pub const KUBEFLOW_TRAINER_SERVER_TOKEN: &str = "KUBEFLOW_TRAINER_SERVER_TOKEN";
    /// Folder of imported models, for `nemo://` paths.
    pub const NEMO_MODELS_CACHE: &str = "NEMO_MODELS_CACHE";
    /// Parent of the model folder (`$NEMO_CACHE_DIR/models`); the name in NeMo's documentation.
    pub const NEMO_CACHE_DIR: &str = "NEMO_CACHE_DIR";
    /// Parent of the model folder (`$NEMO_HOME/models`).
    pub const NEMO_HOME: &str = "NEMO_HOME";
    /// Hugging Face's folder of cache and token, instead of `~/.cache/huggingface`.
    pub const HF_HOME: &str = "HF_HOME";
    /// Hugging Face's folder of downloaded models, instead of `$HF_HOME/hub`.
    pub const HF_HUB_CACHE: &str = "HF_HUB_CACHE";
    /// Older name of [`HF_HUB_CACHE`].
    pub const HUGGINGFACE_HUB_CACHE: &str = "HUGGINGFACE_HUB_CACHE";
    /// Parent of Hugging Face's folder if `HF_HOME` is not set.
    pub const XDG_CACHE_HOME: &str = "XDG_CACHE_HOME";
    /// Hugging Face's token for gated and private models.
    pub const HF_TOKEN: &str = "HF_TOKEN";
    /// Older name of [`HF_TOKEN`].
    pub const HUGGING_FACE_HUB_TOKEN: &str = "HUGGING_FACE_HUB_TOKEN";
    /// File of Hugging Face's token, instead of `$HF_HOME/token`.
    pub const HF_TOKEN_PATH: &str = "HF_TOKEN_PATH";
    /// Server of Hugging Face's hub, instead of `https://huggingface.co`.
    pub const HF_ENDPOINT: &str = "HF_ENDPOINT";
    /// Forbids every request to the hub if it is `1`.
    pub const HF_HUB_OFFLINE: &str = "HF_HUB_OFFLINE";
    /// Name of [`HF_HUB_OFFLINE`] in transformers.
    pub const TRANSFORMERS_OFFLINE: &str = "TRANSFORMERS_OFFLINE";
    /// Folder of experiments, instead of `~/.neva_run`.
    pub const NEVA_RUN_HOME: &str = "NEVA_RUN_HOME";
    /// NeMo-Run's name for the same.
    pub const NEMORUN_HOME: &str = "NEMORUN_HOME";
    /// Set for the tasks of an experiment: the experiment's folder. The tasks' folders are in its `tasks/`.
    pub const NEVA_EXPERIMENT_DIR: &str = "NEVA_EXPERIMENT_DIR";
    /// Set for the tasks of an experiment: name of the task.
    pub const NEVA_TASK: &str = "NEVA_TASK";
    /// Set for the tasks of an experiment: path of the program that started it, for use in scripts.
    pub const NEVA_RUN: &str = "NEVA_RUN";
    /// Set for the tasks of an experiment: nesting depth of experiments.
    pub const NEVA_EXPERIMENT_DEPTH: &str = "NEVA_EXPERIMENT_DEPTH";
    /// Docker's own: address of its API.
    pub const DOCKER_HOST: &str = "DOCKER_HOST";
    /// Folder of the sockets of a user's own services.
    pub const XDG_RUNTIME_DIR: &str = "XDG_RUNTIME_DIR";
    /// Search path of the loader.
    pub const LD_LIBRARY_PATH: &str = "LD_LIBRARY_PATH";
    /// The user's home folder.
    pub const HOME: &str = "HOME";
}

/// Meaning of an exit code, the same for launcher and ranks.
pub type ExitClass = u8;

/// Exit codes.
pub mod exit_class {
    /// Success.
    pub const DONE: u8 = 0;
    /// The job failed.
    pub const JOB: u8 = 1;
    /// The user's input is wrong.
    pub const INPUT: u8 = 2;
    /// The cluster or a tool failed.
    pub const CLUSTER: u8 = 3;
    /// A bug of ours.
    pub const BUG: u8 = 4;
}

/// Failure record of a rank. A failing rank appends it as one JSON line to `failures.jsonl` in the run's folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{}", chain.join(": "))]
pub struct RankFailure {
    /// Exit code.
    pub class: ExitClass,
    /// Rank.
    pub rank: u32,
    /// Optimizer step during which it failed, from 0.
    pub step: Option<u64>,
    /// Milliseconds since the epoch.
    pub unix_ms: u64,
    /// Error messages, outermost first.
    pub chain: Vec<String>,
    /// The rank failed because another one failed or did not answer; the root cause is there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[serde(rename = "by_peer")]
    pub peer_failure: bool,
    /// Suggested fix, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl RankFailure {
    /// Returns true if the port of the rendezvous store was taken, according to the messages of c10d and of the
    /// system. The launcher then tries another port.
    pub fn port_was_taken(&self) -> bool {
        self.chain
            .iter()
            .any(|cause| cause.contains("EADDRINUSE") || cause.to_ascii_lowercase().contains("address already in use"))
    }
}

/// File in the run's folder to which the launcher writes the [`LaunchPlan`](crate::LaunchPlan).
pub const PLAN_FILE: &str = "plan.json";
/// File in the run's folder to which rank 0 appends a line of metrics for each logged step.
pub const METRICS_FILE: &str = "metrics.jsonl";
/// File in the run's folder to which rank 0 writes the table of trained parameters, as JSON.
pub const PARAMETERS_FILE: &str = "parameters.json";
/// File in the run's folder to which failing ranks append their records.
pub const FAILURES_FILE: &str = "failures.jsonl";
/// File in the run's folder to which rank 0 writes its [`RunReport`], as JSON, at the end of the run.
pub const REPORT_FILE: &str = "report.json";

/// File in the run's folder to which rank 0 writes what the run did, as JSON.
pub const EFFECTS_FILE: &str = "effects.json";

/// File in the run's folder to which rank 0 writes the profile: a trace in Chrome's format, and a summary of the steps.
pub const PROFILE_FILE: &str = "profile.json";

/// Result of a finished run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunReport {
    /// The run's folder.
    pub run_dir: PathBuf,
    /// Completed optimizer steps, including those before a resume.
    pub steps: u64,
    /// Loss of each step of this run; NaN, and `null` in JSON, if the step had no labelled token or its loss was not
    /// finite.
    #[serde(deserialize_with = "nan_for_null")]
    pub losses: Vec<f64>,
    /// The last checkpoint.
    pub checkpoint: Option<PathBuf>,
    /// Signal on which the run saved and stopped early, as `SIGINT`; or `a request` of its own process, or
    /// `the end of its launcher`.
    #[serde(default)]
    pub stopped: Option<String>,
    /// Reason why the run ended itself before its last step: `max_time`, early stopping, a callback.
    #[serde(default)]
    pub ended_early: Option<String>,
}

impl RunReport {
    /// Summarizes the run: its steps, the first and the last loss, and the number of its steps without a loss.
    pub fn summary(&self) -> String {
        let steps = format!("{} steps", self.steps);
        let measured: Vec<_> = self.losses.iter().filter(|loss| loss.is_finite()).collect();
        let missing = self.losses.len() - measured.len();
        match (measured.first(), measured.last()) {
            (Some(first), Some(last)) if missing == 0 => format!("{steps}, loss {first:.4} -> {last:.4}"),
            (Some(first), Some(last)) => format!("{steps}, loss {first:.4} -> {last:.4}, {missing} without a loss"),
            _ if missing > 0 => format!("{steps}, {missing} without a loss"),
            _ => steps,
        }
    }
}

fn nan_for_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
    let losses = Vec::<Option<f64>>::deserialize(deserializer)?;
    Ok(losses.into_iter().map(|loss| loss.unwrap_or(f64::NAN)).collect())
}
