//! Config of the Slurm executor: NeMo-Run's `run.SlurmExecutor`.

mod array;
mod launcher;
mod options;
mod parameter;
mod resources;
mod signal;
mod time;
mod validate;

use crate::packager::PackagerConfig;
use crate::text_schema::{optional_text, text, text_map, texts};
use crate::tunnel::TunnelConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub use array::SlurmArray;
pub use launcher::{LauncherConfig, TorchrunConfig};
pub use parameter::SlurmParameter;
pub use signal::SlurmSignal;
pub use time::time_limit_s;

/// Maximum number of requeues at the time limit if `max_requeues` is not set.
pub const MAX_REQUEUES: u32 = 100;

/// Submits a job to Slurm: NeMo-Run's `SlurmExecutor`. An executor file with it is the profile of a site: what the
/// cluster requires of every job, apart from the recipes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename = "SlurmExecutor", deny_unknown_fields, default)]
pub struct SlurmExecutorConfig {
    /// Account that is charged; many sites need none.
    pub account: Option<String>,
    /// Partition.
    pub partition: Option<String>,
    /// Quality of service.
    pub qos: Option<String>,
    /// Reservation.
    pub reservation: Option<String>,
    /// Time limit: `minutes`, `minutes:seconds`, `hours:minutes:seconds`, `days-hours`, `days-hours:minutes` or
    /// `days-hours:minutes:seconds`.
    #[schemars(schema_with = "text")]
    pub time: String,
    /// Nodes. By default those of the run, and 1 for a script; a fine-tune cannot have others.
    pub nodes: Option<u32>,
    /// Tasks on each node. By default the ranks on each node, and 1 for a script; a fine-tune cannot have others.
    pub ntasks_per_node: Option<u32>,
    /// CPU cores of each task.
    pub cpus_per_task: Option<u32>,
    /// CPU cores for each GPU.
    pub cpus_per_gpu: Option<u32>,
    /// GPUs on each node. By default one for each rank of a run on GPUs; 0 requests none.
    pub gpus_per_node: Option<u32>,
    /// GPUs of each task. Each task then sees only its own.
    pub gpus_per_task: Option<u32>,
    /// Generic resources on each node, where a cluster does not use `gpus_per_node`: `gpu:8`, `gpu:a100:8`. Replaces the
    /// default of `gpus_per_node`.
    pub gres: Option<String>,
    /// Memory of each node: `64G`; 0 is all memory.
    #[schemars(schema_with = "optional_text")]
    pub mem: Option<String>,
    /// Memory for each GPU.
    #[schemars(schema_with = "optional_text")]
    pub mem_per_gpu: Option<String>,
    /// Memory for each CPU core.
    #[schemars(schema_with = "optional_text")]
    pub mem_per_cpu: Option<String>,
    /// Required features of the nodes: `h100`, `a100&nvlink`.
    pub constraint: Option<String>,
    /// Nodes to avoid: `n[3,7-9]`.
    pub exclude: Option<String>,
    /// Allocates whole nodes: `true`, or `user`, `mcs` or `topo`.
    pub exclusive: Option<SlurmParameter>,
    /// Size of the segments of nodes for block topologies.
    pub segment: Option<u32>,
    /// Network options of the interconnect.
    pub network: Option<String>,
    /// Comment of the job. The key that identifies the job and its progress are appended.
    pub comment: Option<String>,
    /// Beginning of the job's name: `<prefix><name>`.
    pub job_name_prefix: Option<String>,
    /// Name of the job.
    pub job_details: SlurmJobDetails,
    /// Signal before the time limit, `[B:]NAME@SECONDS`, as `USR1@120`. Ranks save a checkpoint and stop, and the job is
    /// requeued and resumes. With `B:` only the batch script receives it, and forwards it to the ranks.
    pub signal: Option<String>,
    /// As `signal: USR1@<signal_s>`: seconds before the time limit at which the ranks save and stop.
    #[schemars(range(max = 86400))]
    pub signal_s: Option<u64>,
    /// Maximum number of requeues of a job that was stopped by `signal` before its last step. Default: 100.
    pub max_requeues: Option<u32>,
    /// Maximum number of retries of a failed job, each from the last checkpoint. The job requeues itself, so the launcher
    /// may be gone. Wrong input and bugs are not retried.
    pub retries: u32,
    /// Range of an array of scripts, as `0-7%2`; or the cap alone, `%2`, of the array that a sweep is.
    #[schemars(schema_with = "optional_text")]
    pub array: Option<String>,
    /// The cluster's `MaxArraySize`: a sweep of more tasks is several arrays. Default: 1001, which is Slurm's.
    #[schemars(range(min = 2))]
    pub max_array_size: Option<u32>,
    /// Job numbers that this job depends on, as `123` or `123_4`.
    #[schemars(schema_with = "texts")]
    pub dependencies: Vec<String>,
    /// Type of the dependencies: `afterok`, `afterany`, `afternotok`, `after`, `aftercorr`, `afterburstbuffer` or
    /// `singleton`.
    pub dependency_type: String,
    /// Each task of a group is a component of a heterogeneous job, with its own executor's resources, also if these ask for
    /// nodes of the same kind. Groups whose tasks need nodes of different kinds are heterogeneous jobs anyway.
    pub heterogeneous: bool,
    /// Component of each task of a heterogeneous group; tasks with the same number share one.
    pub het_group_indices: Option<Vec<u32>>,
    /// Seconds between the starts of the tasks of a group in one allocation.
    pub wait_time_for_group_job: u64,
    /// Ends all tasks of a group in one allocation if one of them fails.
    pub monitor_group_job: bool,
    /// Seconds that the other tasks of a group have after the first failure.
    pub monitor_group_job_wait_time: u64,
    /// `append` or `truncate`: what a requeued job does with the output of its batch script.
    pub open_mode: String,
    /// Image of the container: a name for pyxis, or a file (`.sqsh`, `.sif`). Without one, ranks run on the node itself.
    pub container_image: Option<String>,
    /// Mounts of the container: `/data`, `/data:/mnt`, `/data:/mnt:ro`. The job's folder is always mounted.
    pub container_mounts: Vec<String>,
    /// Variables of the node that replace those of the image. The job's own variables always do.
    pub container_env: Option<Vec<String>>,
    /// Runtime of containers.
    pub container_runtime: ContainerRuntime,
    /// Further options of sbatch, as `{mail-type: END, oversubscribe: true}`; they override all others. `null` or `false`
    /// removes an option that this cluster's Slurm does not have.
    pub additional_parameters: Option<BTreeMap<String, Option<SlurmParameter>>>,
    /// Further arguments of srun.
    pub srun_args: Option<Vec<String>>,
    /// Shell lines before the ranks start.
    pub setup_lines: Option<String>,
    /// Environment modules to load before the ranks start: `cuda/12.8`.
    pub modules: Vec<String>,
    /// Environment variables of the job's processes. Names are case-sensitive; values may hold any character. They are
    /// stored in the launch plan and the script, so use `env_from` for secrets.
    #[schemars(schema_with = "text_map")]
    pub env_vars: BTreeMap<String, String>,
    /// Names of variables passed on from the environment of the launcher. Their values are never written to a file of the
    /// job, so use this for tokens and passwords.
    pub env_from: Vec<String>,
    /// Launcher of the ranks: srun starts each of them, so `torchrun` means the same. Its `nsys_profile` profiles them.
    pub launcher: Option<LauncherConfig>,
    /// Ranks on each node, as for torchrun. A fine-tune cannot have others than its own.
    pub torchrun_nproc_per_node: Option<u32>,
    /// Records the memory of each GPU once a second, in `logs/memory<node>.csv`.
    pub memory_measure: bool,
    /// Path of the rank program on the cluster; `null`: the launcher's own is uploaded.
    pub rank_program: Option<String>,
    /// Folder of libtorch on the nodes, absolute, with the libraries in `lib`; `null`: the loader's own search path.
    pub libtorch: Option<String>,
    /// Machine that submits the job.
    pub tunnel: TunnelConfig,
    /// Files that are copied to the cluster.
    pub packager: PackagerConfig,
    /// Version of the cluster's Slurm, as `17.11`; options that it does not have are replaced by older ones.
    #[schemars(schema_with = "optional_text")]
    pub slurm_version: Option<String>,
    /// Seconds between two queries of a running job.
    #[schemars(range(min = 1, max = 3600))]
    pub status_interval_s: u64,
    /// Seconds between two updates of the job's progress in its comment, where `squeue` shows it; 0: none.
    #[schemars(range(max = 86400))]
    pub progress_interval_s: u64,
    /// Queries the estimated start time of a pending job.
    pub poll_estimated_start_time: bool,
    /// Refused: Ray is not part of neva-run.
    #[schemars(skip)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ray_template: Option<String>,
}

/// Name of a job: NeMo-Run's `SlurmJobDetails`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SlurmJobDetails {
    /// Name of the job, instead of `<job_name_prefix><name of the run>`.
    pub job_name: Option<String>,
    /// Refused: the folder of a run is `dir`.
    #[schemars(skip)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
}

/// Runtime of containers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ContainerRuntime {
    /// NVIDIA's pyxis and enroot: options of srun.
    #[default]
    Pyxis,
    /// Apptainer, formerly Singularity: `srun apptainer exec`.
    Apptainer,
}

impl Default for SlurmExecutorConfig {
    fn default() -> Self {
        Self {
            account: None,
            partition: None,
            qos: None,
            reservation: None,
            time: "00:10:00".into(),
            nodes: None,
            ntasks_per_node: None,
            cpus_per_task: None,
            cpus_per_gpu: None,
            gpus_per_node: None,
            gpus_per_task: None,
            gres: None,
            mem: None,
            mem_per_gpu: None,
            mem_per_cpu: None,
            constraint: None,
            exclude: None,
            exclusive: None,
            segment: None,
            network: None,
            comment: None,
            job_name_prefix: None,
            job_details: SlurmJobDetails::default(),
            signal: None,
            signal_s: None,
            max_requeues: None,
            retries: 0,
            array: None,
            max_array_size: None,
            dependencies: Vec::new(),
            dependency_type: "afterok".into(),
            heterogeneous: false,
            het_group_indices: None,
            wait_time_for_group_job: 30,
            monitor_group_job: true,
            monitor_group_job_wait_time: 60,
            open_mode: "append".into(),
            container_image: None,
            container_mounts: Vec::new(),
            container_env: None,
            container_runtime: ContainerRuntime::default(),
            additional_parameters: None,
            srun_args: None,
            setup_lines: None,
            modules: Vec::new(),
            env_vars: BTreeMap::new(),
            env_from: Vec::new(),
            launcher: None,
            torchrun_nproc_per_node: None,
            memory_measure: false,
            rank_program: None,
            libtorch: None,
            tunnel: TunnelConfig::default(),
            packager: PackagerConfig::default(),
            slurm_version: None,
            status_interval_s: 5,
            progress_interval_s: 30,
            poll_estimated_start_time: true,
            ray_template: None,
        }
    }
}
