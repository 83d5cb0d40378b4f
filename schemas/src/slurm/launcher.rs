//! Launchers of ranks: NeMo-Run's `run.Torchrun`, with its settings of the nsys profiler.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Launcher of ranks. srun starts each of them, so all mean the same, except the profiler's settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename = "Launcher")]
pub enum LauncherConfig {
    /// NeMo-Run's name for `run.Torchrun` without settings.
    #[serde(rename = "torchrun")]
    TorchrunName,
    /// One task for each rank.
    #[serde(rename = "srun")]
    Srun,
    /// As NeMo-Run's `Torchrun`.
    #[serde(rename = "run.Torchrun")]
    Torchrun(TorchrunConfig),
}

/// Settings of NeMo-Run's `Torchrun`: of the nsys profiler, and of the rendezvous.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename = "Torchrun", deny_unknown_fields, default)]
pub struct TorchrunConfig {
    /// Profiles every rank with nsys.
    pub nsys_profile: bool,
    /// Folder of the profiles within the run's folder.
    pub nsys_folder: String,
    /// File of a profile. nsys replaces `%p` by the process id, and `%q{NAME}` by a variable.
    pub nsys_filename: String,
    /// What is traced.
    pub nsys_trace: Vec<String>,
    /// Further arguments of nsys. NeMo-Run's default also has `--capture-range=cudaProfilerApi`, which records only what a
    /// callback of NeMo selects.
    pub nsys_extra_args: Vec<String>,
    /// Samples the GPUs' metrics, on the first rank of each node.
    pub nsys_gpu_metrics: bool,
    /// As for torchrun. Ranks meet through c10d's store, so only `c10d` is valid.
    pub rdzv_backend: String,
    /// Port of the ranks' store; `null`: one of the ports that Slurm reserves for the step, else one made from the job's
    /// number.
    pub rdzv_port: Option<u16>,
    /// As for torchrun, without effect: ranks of different jobs cannot meet.
    pub rdzv_id: Option<u64>,
}

impl Default for TorchrunConfig {
    fn default() -> Self {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Self {
            nsys_profile: false,
            nsys_folder: "nsys_profile".into(),
            nsys_filename: "profile_%p".into(),
            nsys_trace: texts(&["nvtx", "cuda"]),
            nsys_extra_args: texts(&["--force-overwrite=true", "--cuda-graph-trace=node", "--cuda-event-trace=false"]),
            nsys_gpu_metrics: false,
            rdzv_backend: "c10d".into(),
            rdzv_port: None,
            rdzv_id: None,
        }
    }
}

impl LauncherConfig {
    /// Returns its settings.
    pub fn settings(&self) -> Option<&TorchrunConfig> {
        match self {
            Self::TorchrunName | Self::Srun => None,
            Self::Torchrun(settings) => Some(settings),
        }
    }
}
