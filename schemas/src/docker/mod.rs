//! Config of the container executor: NeMo-Run's `run.DockerExecutor`.

mod size;
mod ulimit;
mod validate;
mod volume;

use crate::packager::PackagerConfig;
use crate::slurm::LauncherConfig;
use crate::text_schema::{optional_text, text_map, texts};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub use size::memory_size;
pub use ulimit::Ulimit;
pub use volume::Volume;

/// Runs all ranks in one container on this machine, through the API socket of Docker or Podman: NeMo-Run's
/// `DockerExecutor`. The job's folder is mounted at its own path and at `/nemo_run`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename = "DockerExecutor", deny_unknown_fields, default)]
pub struct DockerExecutorConfig {
    /// Image of the container: `nvcr.io/nvidia/nemo:25.04`. It is pulled if it is not on this machine.
    pub container_image: String,
    /// Ranks. By default those of the run; a fine-tune cannot have others.
    pub ntasks_per_node: Option<u32>,
    /// OCI runtime: `nvidia` where Docker is not set up to use it by default.
    pub runtime: Option<String>,
    /// GPUs of the container; -1: all. By default one for each rank of a run on GPUs; 0 requests none.
    pub num_gpus: Option<i64>,
    /// Size of `/dev/shm`, as `16g`. By default that of the runtime, 64 MiB, which is too small for NCCL with many GPUs.
    #[schemars(schema_with = "optional_text")]
    pub shm_size: Option<String>,
    /// Limits of processes: `memlock:-1:-1`, `nofile=1024:65536`, `stack=67108864`.
    pub ulimits: Vec<String>,
    /// IPC namespace: `host`, `private`, `shareable`, `container:NAME`.
    pub ipc_mode: Option<String>,
    /// Health check of the container, in the names of the Docker SDK for Python: `test`, `interval`, `timeout`, `retries`,
    /// `start_period`; times are in nanoseconds.
    pub healthcheck: BTreeMap<String, serde_json::Value>,
    /// Gives the container all capabilities and devices.
    pub privileged: bool,
    /// Network: `host`, `none`, `bridge`, `container:NAME`, or the name of a network, which is created if it is missing. By
    /// default that of the runtime. NeMo-Run's default is a network `nemo_run`.
    pub network: Option<String>,
    /// Further settings of the container: names of the Docker SDK for Python (`mem_limit`, `cap_add`, `security_opt`, `init`
    /// and so on), or fields of the Docker API (`HostConfig: {OomScoreAdj: 500}`). They override all others.
    pub additional_kwargs: BTreeMap<String, serde_json::Value>,
    /// Mounts: `/data`, `/data:/mnt`, `/data:/mnt:ro`, or a named volume, `cache:/mnt`.
    #[schemars(schema_with = "texts")]
    pub volumes: Vec<String>,
    /// User of the processes, as `1000:1000`, or a name that the image knows. By default the launcher's user and group.
    #[schemars(schema_with = "optional_text")]
    pub user: Option<String>,
    /// Rank program in the container; `null`: `neva-rank` in the image's PATH.
    pub rank_program: Option<String>,
    /// Folder of libtorch in the container, absolute, with the libraries in it or in `lib`; `null`: the loader's own search path.
    pub libtorch: Option<String>,
    /// Socket of the API, as `unix:///run/podman/podman.sock`. By default `DOCKER_HOST`, else the first that exists of Docker's
    /// and Podman's own.
    pub docker_host: Option<String>,
    /// Launcher of the ranks: the job's script starts each of them, so `torchrun` means the same.
    pub launcher: Option<LauncherConfig>,
    /// Files that are copied into the job's folder.
    pub packager: PackagerConfig,
    /// Environment variables of the job's processes. Names are case-sensitive; values may hold any character. They are
    /// stored in the launch plan and the job's script, so use `env_from` for secrets.
    #[schemars(schema_with = "text_map")]
    pub env_vars: BTreeMap<String, String>,
    /// Names of variables passed on from the environment of the launcher. Their values are sent through a pipe: no file and
    /// no `docker inspect` shows them. Use this for tokens and passwords.
    pub env_from: Vec<String>,
    /// Maximum number of retries of a failed job, each from the last checkpoint. Wrong input and bugs are not retried.
    pub retries: u32,
    /// Seconds that the peers of a failed rank have to exit and record their failure, before SIGTERM.
    #[schemars(range(max = 86400))]
    pub settle_s: u64,
    /// Grace period in seconds after SIGTERM: time for a rank to save a checkpoint and exit, before SIGKILL.
    #[schemars(range(max = 86400))]
    pub grace_s: u64,
    /// Refused: Ray is not part of neva-run.
    #[schemars(skip)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ray_template: Option<String>,
}

impl DockerExecutorConfig {
    /// Returns the search path for the libraries of `libtorch`: its `lib`, and the folder itself.
    pub fn library_path(&self) -> Option<String> {
        let folder = self.libtorch.as_deref()?.trim_end_matches('/');
        Some(format!("{folder}/lib:{folder}"))
    }
}

impl Default for DockerExecutorConfig {
    fn default() -> Self {
        Self {
            container_image: String::new(),
            ntasks_per_node: None,
            runtime: None,
            num_gpus: None,
            shm_size: None,
            ulimits: Vec::new(),
            ipc_mode: None,
            healthcheck: BTreeMap::new(),
            privileged: false,
            network: None,
            additional_kwargs: BTreeMap::new(),
            volumes: Vec::new(),
            user: None,
            rank_program: None,
            libtorch: None,
            docker_host: None,
            launcher: None,
            packager: PackagerConfig::default(),
            env_vars: BTreeMap::new(),
            env_from: Vec::new(),
            retries: 0,
            settle_s: 2,
            grace_s: 30,
            ray_template: None,
        }
    }
}
