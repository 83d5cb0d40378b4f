//! The TrainJob of Kubeflow Trainer 2.2: `trainer.kubeflow.org`. Its runtime makes the pods, so a TrainJob can say less of them
//! than a Job: what it cannot say is refused.

use neva_schemas::KubernetesExecutorConfig;
use serde_json::{Map, Value, json};

use super::{
    super::names::{Names, annotations, labels, workload_metadata},
    job::ranks_of,
    refused,
    shape::Shape,
    work::Work,
};
use crate::error::ExecutorError;

/// Name of the replicated Job, and of its container, that a runtime has for the ranks.
pub(super) const REPLICATED_JOB: &str = "node";
/// Owner of the patches of the runtime.
const PATCHES: &str = "neva-run/executor";
/// Parts of a pod's spec that a patch may set.
const PATCHED: &[&str] = &[
    "serviceAccountName",
    "volumes",
    "imagePullSecrets",
    "securityContext",
    "nodeSelector",
    "affinity",
    "tolerations",
];

/// Returns the TrainJob with the parts of `template` that it can express.
///
/// # Errors
/// The config has a setting that belongs to the runtime.
pub(super) fn trainjob(
    config: &KubernetesExecutorConfig,
    work: Work<'_>,
    shape: Shape,
    names: &Names,
    template: &Value,
) -> Result<Value, ExecutorError> {
    refuse_settings_of_runtime(config)?;
    let container = &template["spec"]["containers"][0];
    let mut trainer = Map::new();
    for (name, key) in [
        ("image", "image"),
        ("command", "command"),
        ("env", "env"),
        ("resourcesPerNode", "resources"),
    ] {
        if let Some(value) = container.get(key) {
            trainer.insert(name.to_owned(), value.clone());
        }
    }
    trainer.insert("numNodes".into(), json!(shape.pods));
    trainer.insert("numProcPerNode".into(), json!(shape.ranks_per_pod));

    let mut patch = json!({ "name": REPLICATED_JOB, "volumeMounts": container["volumeMounts"] });
    if let Some(context) = container.get("securityContext") {
        patch["securityContext"] = context.clone();
    }
    let mut pod: Map<_, _> = PATCHED
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), template["spec"].get(*name)?.clone())))
        .collect();
    pod.insert("containers".into(), json!([patch]));
    let metadata = json!({ "labels": labels(config, names), "annotations": annotations(config, names) });
    let job = json!({
        "name": REPLICATED_JOB,
        "template": { "spec": { "template": { "metadata": metadata, "spec": pod } } },
    });
    let mut spec = json!({
        "runtimeRef": { "name": config.training_runtime },
        "trainer": trainer,
        "runtimePatches": [{
            "manager": PATCHES,
            "trainingRuntimeSpec": { "template": { "spec": { "replicatedJobs": [job] } } },
        }],
    });
    if let Some(seconds) = config.active_deadline_seconds {
        spec["activeDeadlineSeconds"] = json!(seconds);
    }
    if config.queue.is_some() {
        spec["suspend"] = json!(true);
    }
    Ok(json!({
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": workload_metadata(config, names, ranks_of(work, shape)),
        "spec": spec,
    }))
}

fn refuse_settings_of_runtime(config: &KubernetesExecutorConfig) -> Result<(), ExecutorError> {
    let default = KubernetesExecutorConfig::default();
    let settings = [
        ("image_pull_policy", config.image_pull_policy.is_some()),
        ("topology_spread_constraints", !config.topology_spread_constraints.is_empty()),
        ("priority_class", config.priority_class.is_some()),
        ("scheduler", config.scheduler.is_some()),
        ("host_network", config.host_network),
        ("retries", config.retries > 0),
        ("backoff_limit_per_index", config.backoff_limit_per_index.is_some()),
        ("succeed_with_rank_0", config.succeed_with_rank_0),
        ("ttl_seconds_after_finished", config.ttl_seconds_after_finished.is_some()),
        (
            "termination_grace_period_seconds",
            config.termination_grace_period_seconds != default.termination_grace_period_seconds,
        ),
    ];
    match settings.iter().find(|(_, is_set)| *is_set) {
        None => Ok(()),
        Some((name, _)) => Err(refused(
            format!(
                "`executor.{name}` cannot be set in a TrainJob: it belongs to the runtime `{}`",
                config.training_runtime
            ),
            "remove it and set it in the runtime, or use `kind: job` or `kind: jobset`",
        )),
    }
}
