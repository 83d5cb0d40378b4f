//! The contract between launcher and rank: the environment, the exit codes, the failure record, and
//! the trait through which a Rust caller brings an engine. This is the one file that names every
//! environment variable that passes between the two.

use crate::plan::LaunchPlan;
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

/// Who a rank is, read from torchrun's variables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankEnv {
    /// Number of this rank in the world.
    pub rank: u32,
    /// Number of ranks.
    pub world_size: u32,
    /// Number of this rank on its node.
    pub local_rank: u32,
    /// Number of ranks on this node.
    pub local_world_size: u32,
    /// Host of the rendezvous store.
    pub master_addr: String,
    /// Port of the rendezvous store.
    pub master_port: u16,
    /// The launcher's agent serves the store (torchrun), so rank 0 does not.
    pub agent_store: bool,
    /// How often the launcher's agent has started the ranks anew: each attempt has keys of its own in the store.
    pub restart_count: u32,
}

impl RankEnv {
    /// A world of one rank, which meets nobody.
    pub fn single() -> Self {
        Self {
            rank: 0,
            world_size: 1,
            local_rank: 0,
            local_world_size: 1,
            master_addr: "127.0.0.1".into(),
            master_port: 0,
            agent_store: false,
            restart_count: 0,
        }
    }

    /// Reads the variables through `lookup`; `Ok(None)` when none of them is set.
    ///
    /// # Errors
    /// Some are set and others missing or not numbers: a sentence that names them.
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, String> {
        let required = [env::RANK, env::WORLD_SIZE, env::MASTER_ADDR, env::MASTER_PORT];
        let missing: Vec<_> = required.iter().copied().filter(|name| lookup(name).is_none()).collect();
        if lookup(env::RANK).is_none() && lookup(env::WORLD_SIZE).is_none() {
            return Ok(None);
        }
        if !missing.is_empty() {
            return Err(format!("of torchrun's variables {required:?} these are not set: {missing:?}"));
        }
        let number = |name: &str, default: Option<u32>| match (lookup(name), default) {
            (Some(text), _) => text.parse::<u32>().map_err(|_| format!("{name}={text:?} is not a number")),
            (None, Some(default)) => Ok(default),
            (None, None) => Err(format!("{name} is not set")),
        };
        let (rank, world_size) = (number(env::RANK, None)?, number(env::WORLD_SIZE, None)?);
        if world_size == 0 || rank >= world_size {
            return Err(format!("RANK={rank} does not lie below WORLD_SIZE={world_size}"));
        }
        let port = lookup(env::MASTER_PORT).unwrap_or_default();
        Ok(Some(Self {
            rank,
            world_size,
            local_rank: number(env::LOCAL_RANK, Some(rank))?,
            local_world_size: number(env::LOCAL_WORLD_SIZE, Some(world_size))?,
            master_addr: lookup(env::MASTER_ADDR).unwrap_or_default(),
            master_port: port.parse().map_err(|_| format!("{}={port:?} is not a port", env::MASTER_PORT))?,
            agent_store: lookup(env::TORCHELASTIC_USE_AGENT_STORE).is_some_and(|text| text.eq_ignore_ascii_case("true") || text == "1"),
            restart_count: number(env::TORCHELASTIC_RESTART_COUNT, Some(0))?,
        }))
    }

    /// The variables that a launcher sets for this rank.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            (env::RANK, self.rank.to_string()),
            (env::WORLD_SIZE, self.world_size.to_string()),
            (env::LOCAL_RANK, self.local_rank.to_string()),
            (env::LOCAL_WORLD_SIZE, self.local_world_size.to_string()),
            (env::MASTER_ADDR, self.master_addr.clone()),
            (env::MASTER_PORT, self.master_port.to_string()),
        ]
    }
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
