//! Config of the Kubernetes executor: `run.KubernetesExecutor`.

mod name;
mod validate;
mod volume;

use crate::text_schema::text_map;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

pub use name::{is_dns_label, is_dns_name};
pub use volume::{KubernetesVolume, NfsVolume, VolumeSource};

/// Default port of the rendezvous store of ranks; torchrun's default.
const MASTER_PORT: u16 = 29_500;
/// Default number of restarts of a job that no failure of its own caused.
const MAX_RESTARTS: u32 = 100;

/// Runs a job on Kubernetes: an Indexed Job, a headless Service and a ConfigMap, or a JobSet or TrainJob to apply yourself. An
/// executor file with it is the profile of a site: what the cluster requires of every job, apart from the recipes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename = "KubernetesExecutor", deny_unknown_fields, default)]
pub struct KubernetesExecutorConfig {
    /// Image of the ranks, with the rank program, libtorch, `/bin/sh` and the tools of coreutils or busybox.
    pub image: Option<String>,
    /// When nodes pull the image: `Always`, `IfNotPresent` or `Never`. The default is the cluster's.
    pub image_pull_policy: Option<String>,
    /// Secrets of the namespace with logins of image registries.
    pub image_pull_secrets: Vec<String>,
    /// Namespace of the job. By default that of the kubeconfig's context, or the launcher's own in a cluster.
    pub namespace: Option<String>,
    /// Context of the kubeconfig. By default its current one.
    pub context: Option<String>,
    /// Kubeconfig file. By default the files in `KUBECONFIG`, `~/.kube/config`, or the service account of the launcher's pod.
    pub kubeconfig: Option<String>,
    /// Kind of object: a `job` is submitted and watched; a `jobset` and a `trainjob` are rendered for `kubectl apply`.
    pub kind: KubernetesKind,
    /// Name of the ClusterTrainingRuntime of a `trainjob`.
    pub training_runtime: String,
    /// Folder of runs, as pods see it. By default the mount path of the first volume that pods share.
    pub dir: Option<String>,
    /// Volumes of the pods.
    pub volumes: Vec<KubernetesVolume>,
    /// Gives each rank a pod of its own. By default the ranks of a node share a pod.
    pub one_rank_per_pod: bool,
    /// GPUs on each node. By default one for each rank of a run on GPUs; 0 requests none.
    pub gpus_per_node: Option<u32>,
    /// Resource name of GPUs.
    pub gpu_resource: String,
    /// Resources that each pod requests, as `{cpu: 8, memory: 64Gi}`.
    #[schemars(schema_with = "text_map")]
    pub requests: BTreeMap<String, String>,
    /// Limits of each pod, as `{memory: 64Gi, rdma/hca_shared_devices_a: 1}`. GPUs are added.
    #[schemars(schema_with = "text_map")]
    pub limits: BTreeMap<String, String>,
    /// Size of `/dev/shm`, as `16Gi`. By default the container runtime's, which is small.
    pub shm_size: Option<String>,
    /// Labels of the nodes to use.
    #[schemars(schema_with = "text_map")]
    pub node_selector: BTreeMap<String, String>,
    /// Puts each pod of the job on a node of its own.
    pub one_pod_per_node: bool,
    /// Tolerations, as in a pod.
    #[schemars(schema_with = "objects")]
    pub tolerations: Vec<Value>,
    /// Affinity, as in a pod.
    #[schemars(schema_with = "optional_object")]
    pub affinity: Option<Value>,
    /// Topology spread constraints, as in a pod. Without a `labelSelector` they count the pods of the job.
    #[schemars(schema_with = "objects")]
    pub topology_spread_constraints: Vec<Value>,
    /// Priority class of the pods.
    pub priority_class: Option<String>,
    /// Scheduler of the pods.
    pub scheduler: Option<String>,
    /// Service account of the pods.
    pub service_account: Option<String>,
    /// Security context of the pods, as `{runAsUser: 1000, fsGroup: 1000}`.
    #[schemars(schema_with = "optional_object")]
    pub security_context: Option<Value>,
    /// Security context of the container, as `{allowPrivilegeEscalation: false}`.
    #[schemars(schema_with = "optional_object")]
    pub container_security_context: Option<Value>,
    /// Pods use the network of their nodes.
    pub host_network: bool,
    /// Labels of all objects.
    #[schemars(schema_with = "text_map")]
    pub labels: BTreeMap<String, String>,
    /// Annotations of all objects.
    #[schemars(schema_with = "text_map")]
    pub annotations: BTreeMap<String, String>,
    /// Local queue of Kueue, which starts the job when there is room for all of its pods.
    pub queue: Option<String>,
    /// Changes of the rendered objects by path, as `{spec.template.spec.hostIPC: true}`; `null` removes a field. Paths are
    /// those of the Job, JobSet or TrainJob; a number selects an item of a list, and `\.` is a dot in a name.
    #[schemars(schema_with = "any_map")]
    pub overrides: BTreeMap<String, Value>,
    /// Maximum number of retries of a failed job, each from the last checkpoint. The cluster restarts the ranks, so the
    /// launcher may be gone. Wrong input and bugs are not retried.
    pub retries: u32,
    /// Retries of each pod on its own, instead of `retries` of the job. Only for scripts and runs of one pod.
    pub backoff_limit_per_index: Option<u32>,
    /// Maximum number of restarts because another pod was lost, drained or failed. They do not count as `retries`.
    pub max_restarts: u32,
    /// The job succeeds when the pod of rank 0 does; the others are ended then.
    pub succeed_with_rank_0: bool,
    /// Seconds after which the cluster removes an ended job, its logs and its results. By default they are kept.
    pub ttl_seconds_after_finished: Option<u32>,
    /// Time limit of the job in seconds, restarts included.
    pub active_deadline_seconds: Option<u64>,
    /// Seconds that ranks have to save a checkpoint when a pod is deleted or its node is drained.
    #[schemars(range(max = 86400))]
    pub termination_grace_period_seconds: u64,
    /// Seconds that the other ranks of a pod have to record their failures after the first one.
    #[schemars(range(max = 86400))]
    pub settle_s: u64,
    /// Port of the rendezvous store. Jobs with `host_network` on one node need different ones.
    pub master_port: u16,
    /// Shell lines in each pod before the ranks start.
    pub setup_lines: Option<String>,
    /// Environment variables of the ranks. Names are case-sensitive; values may hold any character. They are stored in the
    /// launch plan and the job, so use `env_from` or `env_secrets` for secrets.
    #[schemars(schema_with = "text_map")]
    pub env_vars: BTreeMap<String, String>,
    /// Names of variables passed on from the environment of the launcher, in a Secret that is deleted with the job.
    pub env_from: Vec<String>,
    /// Variables from Secrets of the namespace, as `{HF_TOKEN: huggingface/token}`: name of the Secret and key in it.
    #[schemars(schema_with = "text_map")]
    pub env_secrets: BTreeMap<String, String>,
    /// Rank program in the image.
    pub rank_program: String,
    /// Seconds within which the API server has to answer a request.
    #[schemars(range(min = 1, max = 600))]
    pub request_timeout_s: u64,
}

/// Kind of object that runs a job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KubernetesKind {
    /// An Indexed Job of Kubernetes.
    #[default]
    Job,
    /// A JobSet of `sigs.k8s.io/jobset`.
    JobSet,
    /// A TrainJob of Kubeflow Trainer 2.
    TrainJob,
}

impl Default for KubernetesExecutorConfig {
    fn default() -> Self {
        Self {
            image: None,
            image_pull_policy: None,
            image_pull_secrets: Vec::new(),
            namespace: None,
            context: None,
            kubeconfig: None,
            kind: KubernetesKind::default(),
            training_runtime: "torch-distributed".into(),
            dir: None,
            volumes: Vec::new(),
            one_rank_per_pod: false,
            gpus_per_node: None,
            gpu_resource: "nvidia.com/gpu".into(),
            requests: BTreeMap::new(),
            limits: BTreeMap::new(),
            shm_size: None,
            node_selector: BTreeMap::new(),
            one_pod_per_node: false,
            tolerations: Vec::new(),
            affinity: None,
            topology_spread_constraints: Vec::new(),
            priority_class: None,
            scheduler: None,
            service_account: None,
            security_context: None,
            container_security_context: None,
            host_network: false,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            queue: None,
            overrides: BTreeMap::new(),
            retries: 0,
            backoff_limit_per_index: None,
            max_restarts: MAX_RESTARTS,
            succeed_with_rank_0: false,
            ttl_seconds_after_finished: None,
            active_deadline_seconds: None,
            termination_grace_period_seconds: 60,
            settle_s: 2,
            master_port: MASTER_PORT,
            setup_lines: None,
            env_vars: BTreeMap::new(),
            env_from: Vec::new(),
            env_secrets: BTreeMap::new(),
            rank_program: "neva-rank".into(),
            request_timeout_s: 20,
        }
    }
}

impl KubernetesExecutorConfig {
    /// Returns the folder of runs as pods see it: `dir`, else the first volume that pods share and may write to; `None` if
    /// there is none.
    pub fn runs_dir(&self) -> Option<&str> {
        self.dir.as_deref().or_else(|| {
            let mut volumes = self.volumes.iter();
            volumes
                .find(|volume| volume.is_shared() && !volume.read_only)
                .map(|volume| volume.mount_path.as_str())
        })
    }

    /// Returns the volume that holds `path` in the pods: the one with the longest mount path.
    pub fn volume_of(&self, path: &str) -> Option<&KubernetesVolume> {
        let holds = |volume: &&KubernetesVolume| volume.holds(path);
        self.volumes.iter().filter(holds).max_by_key(|volume| volume.mount_path.len())
    }
}

/// Schema of a list of maps with any keys.
fn objects(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "items": { "type": "object" } })
}

/// Schema of a map with any keys, or `null`.
fn optional_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["object", "null"] })
}

/// Schema of a map of any values.
fn any_map(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object" })
}
