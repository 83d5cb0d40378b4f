//! The contract between launcher and rank: the environment, the exit codes, the failure record, and
//! the trait through which a Rust caller brings an engine. This is the one file that names every
//! environment variable that passes between the two.

use crate::plan::LaunchPlan;
use crate::rank_env::RankEnv;
use serde::{Deserialize, Deserializer, Serialize};
use std::path::PathBuf;

/// Names of environment variables.
pub mod env {
    /// Number of this rank in the world; torchrun's name.
    pub const RANK: &str = "RANK";
    /// Number of ranks; torchrun's name.
    pub const WORLD_SIZE: &str = "WORLD_SIZE";
    /// Number of this rank on its node; torchrun's name.
    pub const LOCAL_RANK: &str = "LOCAL_RANK";
    /// Number of ranks on this node; torchrun's name.
    pub const LOCAL_WORLD_SIZE: &str = "LOCAL_WORLD_SIZE";
    /// Host of the rendezvous store; torchrun's name.
    pub const MASTER_ADDR: &str = "MASTER_ADDR";
    /// Port of the rendezvous store; torchrun's name.
    pub const MASTER_PORT: &str = "MASTER_PORT";
    /// Set by torchrun: its agent already serves the rendezvous store, so rank 0 must not.
    pub const TORCHELASTIC_USE_AGENT_STORE: &str = "TORCHELASTIC_USE_AGENT_STORE";
    /// Set by torchrun: how often its agent has started the ranks anew. Its store lives on meanwhile.
    pub const TORCHELASTIC_RESTART_COUNT: &str = "TORCHELASTIC_RESTART_COUNT";
    /// Number of this task in its job step; srun's name.
    pub const SLURM_PROCID: &str = "SLURM_PROCID";
    /// Number of tasks of this job step. Only srun sets it: a batch script without srun has none.
    pub const SLURM_STEP_NUM_TASKS: &str = "SLURM_STEP_NUM_TASKS";
    /// Number of this task on its node; srun's name.
    pub const SLURM_LOCALID: &str = "SLURM_LOCALID";
    /// Number of this node in its job step; srun's name.
    pub const SLURM_NODEID: &str = "SLURM_NODEID";
    /// Tasks of each node of the job step, as `2(x3),1`; srun's name.
    pub const SLURM_STEP_TASKS_PER_NODE: &str = "SLURM_STEP_TASKS_PER_NODE";
    /// Nodes of the job step, as `n[1-3,7]`; srun's name.
    pub const SLURM_STEP_NODELIST: &str = "SLURM_STEP_NODELIST";
    /// Ports that Slurm keeps free for the job step, as `12000-12003`, where the cluster does so; srun's name.
    pub const SLURM_STEP_RESV_PORTS: &str = "SLURM_STEP_RESV_PORTS";
    /// Number of the job; Slurm's name.
    pub const SLURM_JOB_ID: &str = "SLURM_JOB_ID";
    /// Number of the step in its job; Slurm's name.
    pub const SLURM_STEP_ID: &str = "SLURM_STEP_ID";
    /// Path of the rank program, in place of the `neva-rank` beside `neva-run` or in PATH.
    pub const NEVA_RANK: &str = "NEVA_RANK";
    /// `1`: the rank ends when the process that started it does.
    pub const NEVA_DIE_WITH_PARENT: &str = "NEVA_DIE_WITH_PARENT";
    /// Set for the processes of a job on this machine: its folder, by which they are found should their launcher be
    /// killed.
    pub const NEVA_JOB: &str = "NEVA_JOB";
    /// cuBLAS's own: `:4096:8` makes its results repeat bit for bit.
    pub const CUBLAS_WORKSPACE_CONFIG: &str = "CUBLAS_WORKSPACE_CONFIG";
    /// Filter of log targets and levels, `tracing` syntax.
    pub const NEVA_LOG: &str = "NEVA_LOG";
    /// MLflow's own: the token that a tracking server asks for.
    pub const MLFLOW_TRACKING_TOKEN: &str = "MLFLOW_TRACKING_TOKEN";
    /// MLflow's own: the name that a tracking server asks for, with [`MLFLOW_TRACKING_PASSWORD`].
    pub const MLFLOW_TRACKING_USERNAME: &str = "MLFLOW_TRACKING_USERNAME";
    /// MLflow's own: the password that goes with [`MLFLOW_TRACKING_USERNAME`].
    pub const MLFLOW_TRACKING_PASSWORD: &str = "MLFLOW_TRACKING_PASSWORD";
    /// Folder of imported models, for `nemo://` paths.
    pub const NEMO_MODELS_CACHE: &str = "NEMO_MODELS_CACHE";
    /// Parent of the model folder (`$NEMO_CACHE_DIR/models`); the name that NeMo's documents promise.
    pub const NEMO_CACHE_DIR: &str = "NEMO_CACHE_DIR";
    /// Parent of the model folder (`$NEMO_HOME/models`).
    pub const NEMO_HOME: &str = "NEMO_HOME";
    /// Folder that experiments are kept in, in place of `~/.neva_run`.
    pub const NEVA_RUN_HOME: &str = "NEVA_RUN_HOME";
    /// NeMo-Run's name for the same.
    pub const NEMORUN_HOME: &str = "NEMORUN_HOME";
    /// Set for the tasks of an experiment: the experiment's folder, which holds that of each task in `tasks/`.
    pub const NEVA_EXPERIMENT_DIR: &str = "NEVA_EXPERIMENT_DIR";
    /// Set for the tasks of an experiment: the task's name.
    pub const NEVA_TASK: &str = "NEVA_TASK";
    /// Set for the tasks of an experiment: the program that started it, for scripts to call.
    pub const NEVA_RUN: &str = "NEVA_RUN";
    /// Set for the tasks of an experiment: how many experiments they are in, one within the other.
    pub const NEVA_EXPERIMENT_DEPTH: &str = "NEVA_EXPERIMENT_DEPTH";
    /// The user's home folder.
    pub const HOME: &str = "HOME";
}

/// Meaning of an exit code, the same for launcher and ranks.
pub type ExitClass = u8;

/// Exit codes.
pub mod exit_class {
    /// All done.
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

/// How a rank failed. A failing rank appends it as one JSON line to `failures.jsonl` in the run's folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{}", chain.join(": "))]
pub struct RankFailure {
    /// Exit code.
    pub class: ExitClass,
    /// Number of the rank.
    pub rank: u32,
    /// Optimizer step that was under way, from 0.
    pub step: Option<u64>,
    /// Milliseconds since the epoch.
    pub unix_ms: u64,
    /// What happened, outermost first.
    pub chain: Vec<String>,
    /// It failed because another rank did, or did not answer: that one has the cause.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_peer: bool,
}

impl RankFailure {
    /// Whether the rendezvous store found its port taken, in the words of c10d and of the system: the
    /// launcher then tries another one.
    pub fn port_was_taken(&self) -> bool {
        self.chain
            .iter()
            .any(|cause| cause.contains("EADDRINUSE") || cause.to_ascii_lowercase().contains("address already in use"))
    }
}

/// File in the run's folder that the launcher writes the [`LaunchPlan`] to.
pub const PLAN_FILE: &str = "plan.json";
/// File in the run's folder that rank 0 appends a line of metrics to for each logged step.
pub const METRICS_FILE: &str = "metrics.jsonl";
/// File in the run's folder that rank 0 writes the table of trained parameters to, as JSON.
pub const PARAMETERS_FILE: &str = "parameters.json";
/// File in the run's folder that failing ranks append to.
pub const FAILURES_FILE: &str = "failures.jsonl";
/// File in the run's folder that rank 0 writes its [`RunReport`] to, as JSON, when the run is over.
pub const REPORT_FILE: &str = "report.json";

/// What a finished run gives back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunReport {
    /// The run's folder.
    pub run_dir: PathBuf,
    /// Optimizer steps that are done, those before a resume included.
    pub steps: u64,
    /// Loss of each step that this run did; one that is not finite is `null` in JSON, and comes back as NaN.
    #[serde(deserialize_with = "nan_for_null")]
    pub losses: Vec<f64>,
    /// The last checkpoint.
    pub checkpoint: Option<PathBuf>,
    /// The signal on which the run saved and stopped before its end, or `a request` of its own process.
    #[serde(default)]
    pub stopped: Option<String>,
    /// Why the run ended before its last step by its own rules: `max_time`, early stopping, a callback.
    #[serde(default)]
    pub ended_early: Option<String>,
}

fn nan_for_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
    let losses = Vec::<Option<f64>>::deserialize(deserializer)?;
    Ok(losses.into_iter().map(|loss| loss.unwrap_or(f64::NAN)).collect())
}

/// An engine: what turns a plan into trained weights. `neva-run` does not link one; a caller brings it.
pub trait Engine: Send + Sync {
    /// Trains as the given rank, in this process.
    ///
    /// # Errors
    /// How the rank failed.
    fn train(&self, plan: &LaunchPlan, rank: &RankEnv) -> Result<RunReport, RankFailure>;
}
